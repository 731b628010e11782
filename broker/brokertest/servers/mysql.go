//go:build unix

package servers

// What is different where [MariaDBConfig.MySQL] names a MySQL.

// mysqlSettings are ours for MySQL. Its X protocol would listen on every
// address. Accounts and events are rows of InnoDB there, so a commit is written
// out, which a killed server keeps; its performance schema stays on, as on every
// server that others run.
var mysqlSettings = map[string]string{
	"mysqlx": "OFF", "innodb-flush-log-at-trx-commit": "2", "sync-binlog": "0", "performance-schema": "ON",
	"secure-file-priv": "NULL", // the default is a folder of the package
}

// IsMySQL reports whether it is a MySQL.
func (m *MariaDB) IsMySQL() bool { return m.mysqld != "" }

func (m *MariaDB) installMySQL() Command {
	args := []string{"--no-defaults", "--initialize-insecure", "--datadir=" + m.data(), "--tmpdir=" + m.path("tmp"), "--innodb-flush-log-at-trx-commit=0"}
	if v, ok := m.settings[lowerCase]; ok { // it is fixed from the beginning
		args = append(args, "--"+lowerCase+"="+v)
	}
	return Command{Name: "mysqld --initialize-insecure", Path: m.mysqld, Dir: m.dir, User: m.account, Args: args}
}

const lowerCase = "lower-case-table-names"

// mysqlScript gives root its password; MySQL reads it line by line.
const mysqlScript = "SET SESSION sql_log_bin = 0;\nALTER USER root@localhost IDENTIFIED BY '%[1]s';\n" +
	"CREATE USER root@'127.0.0.1' IDENTIFIED BY '%[1]s';\nGRANT ALL PRIVILEGES ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n"
