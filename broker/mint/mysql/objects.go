package mysql

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// object is something that names the user as its definer, and so would run with
// the user's rights.
type object struct{ kind, schema, name string }

func (o object) String() string {
	return o.kind + " " + quoteName(o.schema) + "." + quoteName(o.name)
}

// dropStatement drops an object; false for one of a kind that we do not drop.
func (o object) dropStatement() (string, bool) {
	switch o.kind {
	case "VIEW", "TRIGGER", "EVENT", "PROCEDURE", "FUNCTION":
		return "DROP " + o.kind + " IF EXISTS " + quoteName(o.schema) + "." + quoteName(o.name), true
	}
	return "", false
}

// What has a definer, which the servers write as user@host; our names have no
// "@". MySQL has all of it in one dictionary. MariaDB keeps routines and events
// in tables that the admin may read, which is much cheaper than its
// information_schema and hides none of them. To show a view it opens it, and its
// own schemas, which it is told to leave out, have a hundred: so it is asked which
// schemas have views, and then for those of each.
const (
	triggersOf     = "SELECT 'TRIGGER', TRIGGER_SCHEMA, TRIGGER_NAME, DEFINER FROM information_schema.TRIGGERS WHERE DEFINER LIKE ?"
	definedOnMySQL = "SELECT ROUTINE_TYPE, ROUTINE_SCHEMA, ROUTINE_NAME, DEFINER FROM information_schema.ROUTINES WHERE DEFINER LIKE ?" +
		" UNION ALL SELECT 'EVENT', EVENT_SCHEMA, EVENT_NAME, DEFINER FROM information_schema.EVENTS WHERE DEFINER LIKE ?" +
		" UNION ALL SELECT 'VIEW', TABLE_SCHEMA, TABLE_NAME, DEFINER FROM information_schema.VIEWS WHERE DEFINER LIKE ?" +
		" UNION ALL " + triggersOf
	routinesAndEvents = "SELECT type, db, name, definer FROM mysql.proc WHERE definer LIKE ?" +
		" UNION ALL SELECT 'EVENT', db, name, definer FROM mysql.event WHERE definer LIKE ?"
	schemasOfViews = "SELECT TABLE_SCHEMA FROM information_schema.TABLES WHERE TABLE_TYPE = 'VIEW' AND TABLE_SCHEMA" // and notTheServers
	viewsOf        = "SELECT 'VIEW', TABLE_SCHEMA, TABLE_NAME, DEFINER FROM information_schema.VIEWS WHERE TABLE_SCHEMA = ? AND DEFINER LIKE ?"

	// lookWithin is for MariaDB, where the session allows a statement less.
	lookWithin = "SET STATEMENT max_statement_time = 12 FOR "
)

// objects lists what names the user as its definer, as far as the admin can see
// it. Never alter one of them: whoever alters an event becomes its definer, and
// lends it all rights of the admin.
func (r *revocation) objects(ctx context.Context) ([]object, error) {
	if r.params.definesNothing() {
		return nil, nil
	}
	var list []object
	add := func(query string, args ...any) error {
		return r.rows(ctx, func(scan func(...any) error) error {
			var o object
			var definer string
			err := scan(&o.kind, &o.schema, &o.name, &definer)
			if strings.HasPrefix(definer, string(r.handle)+"@") { // the server compares loosely
				list = append(list, o)
			}
			return err
		}, query, args...)
	}
	ours, err := escapePattern(string(r.handle))+"@%", error(nil)
	if r.server.mariadb {
		err = r.defined(ctx, ours, add)
	} else {
		err = add(definedOnMySQL, ours, ours, ours, ours)
	}
	if err != nil {
		return nil, fmt.Errorf("look for what it is the definer of: %w", err)
	}
	return list, nil
}

// defined adds what MariaDB has with a definer of ours.
func (r *revocation) defined(ctx context.Context, ours string, add func(query string, args ...any) error) error {
	if err := add(lookWithin+routinesAndEvents, ours, ours); err != nil {
		return err
	}
	if err := add(lookWithin+triggersOf+" AND TRIGGER_SCHEMA"+notTheServers(), ours); err != nil {
		return err
	}
	schemas, err := r.texts(ctx, lookWithin+schemasOfViews+notTheServers()) // each as often as it has views
	slices.Sort(schemas)
	for _, schema := range slices.Compact(schemas) {
		if err == nil {
			err = add(lookWithin+viewsOf, schema, ours)
		}
	}
	return err
}

// notTheServers leaves out the servers' own schemas.
func notTheServers() string { return " NOT IN ('" + strings.Join(systemSchemas, "', '") + "')" }

// drop drops the account, or leaves it where it is the definer of something.
func (r *revocation) drop(ctx context.Context) error {
	left, err := r.objects(ctx)
	if err != nil {
		return err
	}
	if r.params.OnOwned == onOwnedDrop {
		if left, err = r.dropObjects(ctx, left); err != nil {
			return err
		}
	}
	if len(left) == 0 {
		err := r.each(ctx, dropStatement)
		if codeOf(err) != codeIsDefiner {
			if err == nil {
				err = r.forget(ctx)
			}
			return err
		}
		left = []object{{kind: "something that the admin cannot see"}}
	}
	return r.keep(ctx, left)
}

// dropObjects drops what it can and returns the rest.
func (r *revocation) dropObjects(ctx context.Context, list []object) ([]object, error) {
	var left []object
	for _, o := range list {
		statement, can := o.dropStatement()
		if !can {
			left = append(left, o)
			continue
		}
		if err := r.exec(ctx, statement); err != nil {
			return nil, fmt.Errorf("drop %s, whose definer it is: %w", printable(o.String()), err)
		}
	}
	return left, nil
}

const maxListed = 20 // objects that a row names

// keep writes down why the account is still there, or, where its event was
// faster, what it left behind.
func (r *revocation) keep(ctx context.Context, left []object) error {
	var what strings.Builder
	fmt.Fprintf(&what, "definer of %d:", len(left))
	for i, o := range left {
		if i == maxListed {
			what.WriteString(" …")
			break
		}
		what.WriteString(" " + o.String())
	}
	if _, err := r.settle(ctx); err != nil {
		return err
	}
	return r.exec(ctx, "INSERT INTO "+r.home()+".daypass_kept (name, since, looked, what) VALUES (?, UTC_TIMESTAMP(), UTC_TIMESTAMP(), ?)"+
		" ON DUPLICATE KEY UPDATE looked = VALUES(looked), what = VALUES(what)", string(r.handle), what.String())
}

// forget takes the row away that keep wrote.
func (r *revocation) forget(ctx context.Context) error {
	if !r.settled {
		return nil
	}
	return r.exec(ctx, "DELETE FROM "+r.home()+".daypass_kept WHERE name = ?", string(r.handle))
}
