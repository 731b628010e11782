package postgres

import (
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass-dev/daypass/broker"
)

// adminKeys are the parameters an admin URL may have. Others, such as options
// or a service file, could lead elsewhere or change what our statements mean.
var adminKeys = []string{
	"user", "password", "host", "port", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword",
	"sslsni", "sslnegotiation", "sslcertmode", "channel_binding", "require_auth", "connect_timeout", "target_session_attrs",
}

// sessionSettings hold for all our connections. With search_path as it is,
// nobody who can create a function in the admin's database can have us call
// it; the time-outs keep a stuck statement from holding up the next. What we
// ask is about one role or a few, among thousands: the way there is always by
// an index, whatever the server's statistics of its own tables say, which are
// seldom fresh. Nothing of that is worth compiling, which the server would think
// of any plan that has to do what is turned off here.
var sessionSettings = map[string]string{
	"application_name":                    "daypass",
	"client_encoding":                     "UTF8",
	"search_path":                         "pg_catalog",
	"datestyle":                           "ISO",
	"timezone":                            "UTC",
	"plan_cache_mode":                     "force_generic_plan",
	"enable_seqscan":                      "off",
	"enable_hashjoin":                     "off",
	"enable_mergejoin":                    "off",
	"jit":                                 "off",
	"statement_timeout":                   "15s",
	"lock_timeout":                        "2s",
	"idle_in_transaction_session_timeout": "30s",
}

// parseAdmin reads an admin URL. Its errors hold nothing of it.
func parseAdmin(secret broker.Secret) (*pgx.ConnConfig, endpoint, error) {
	text := strings.TrimSpace(secret.Reveal())
	if !strings.HasPrefix(text, "postgres://") && !strings.HasPrefix(text, "postgresql://") {
		return nil, endpoint{}, errors.New("the admin secret is not a postgres:// URL")
	}
	config, err := pgx.ParseConfigWithOptions(text, pgx.ParseConfigOptions{
		ParseConfigOptions: pgconn.ParseConfigOptions{ConnStringAllowedKeys: adminKeys},
	})
	if err != nil {
		return nil, endpoint{}, errors.New("the admin secret is not a postgres:// URL we can use: it does not parse, its TLS files cannot be read, or it has parameters other than " + strings.Join(adminKeys, ", "))
	}
	if config.Database == "" || config.User == "" || config.Password == "" && config.TLSConfig == nil {
		return nil, endpoint{}, errors.New("the admin URL must name user, password and database")
	}
	config.RuntimeParams = maps.Clone(sessionSettings)
	config.MaxProtocolMessageBodyLen = 8 << 20
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // nothing prepared: nothing to go stale
	return config, endpoint{Host: config.Host, Port: int(config.Port), SSLMode: sslModeOf(text)}, nil
}

// sslModeOf finds the sslmode an admin URL spells out, for the job to use too.
// The parsed configuration does not keep the word.
func sslModeOf(text string) string {
	i := strings.LastIndexByte(text, '?')
	if i < 0 {
		return ""
	}
	query, err := url.ParseQuery(text[i+1:])
	if err != nil || !slices.Contains(sslModes, query.Get("sslmode")) {
		return ""
	}
	return query.Get("sslmode")
}
