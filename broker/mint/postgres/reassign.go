package postgres

import (
	"context"
	"fmt"
)

// reassign gives the role's plain tables and sequences of one database to
// another role. Nothing else is given away: a routine, a view, a trigger, a
// rule, a policy, an expression in an index or a default runs with the rights
// of the owner of what it is about, or of whoever uses that, and the job could
// have written any of them to wait for its new owner.
func (r *revocation) reassign(ctx context.Context, c *conn) error {
	to := r.params.OnOwned.To
	if err := c.checkGroups(ctx, []string{to}, r.database); err != nil {
		if codeOf(err) != "" || lost(err) {
			return err
		}
		return &serverError{codeNoRight, printable(err.Error())} // it became too great since the lease was opened
	}
	for moved := 1; moved > 0; { // a table that others refer to can go after them
		list, err := rows[inert](ctx, c, inertQuery, r.oid, 0, harmlessDefault, to)
		if err != nil {
			return err
		}
		moved = 0
		for _, o := range list {
			err := r.handOver(ctx, c, o, to)
			if err == nil {
				moved++
			} else if err := r.note(c.database, err); err != nil {
				return fmt.Errorf("reassign %s: %w", o.Name, err)
			}
		}
	}
	return nil
}

// inert is a table or sequence without code of anybody's.
type inert struct {
	OID        uint32
	Kind, Name string // TABLE or SEQUENCE; quoted and qualified
}

// errNoLongerInert is for the operator: whoever goes on changing things under our
// hands would hold up his own revocation for ever if it were tried again.
var errNoLongerInert = &serverError{codeWrongState, "something was changed or renamed while it was handed over"}

// handOver changes the owner of what is still inert when nobody else can
// change it any more. Locking and changing go by a name, and a schema that
// somebody renames meanwhile leads it to something else: so what counts is that
// our lock is on the very object that was judged, and in the end that it is this
// one which our transaction has changed.
func (r *revocation) handOver(ctx context.Context, c *conn, o inert, to string) error {
	return c.inTx(ctx, func() error {
		begin := "BEGIN"
		if o.Kind == "TABLE" {
			begin += "; LOCK TABLE " + o.Name + " IN ACCESS EXCLUSIVE MODE"
		}
		if err := c.exec(ctx, begin); err != nil {
			return err
		}
		if err := c.holds(ctx, lockIsOurs, o.OID, o.Kind); err != nil {
			return err
		}
		still, err := rows[inert](ctx, c, inertQuery, r.oid, o.OID, harmlessDefault, to)
		if err == nil && len(still) == 0 {
			err = errNoLongerInert
		}
		if err != nil {
			return err
		}
		if err := c.exec(ctx, "ALTER "+o.Kind+" "+o.Name+" OWNER TO "+quoteName(to)); err != nil {
			return err
		}
		return c.holds(ctx, changeIsOurs, o.OID, to)
	})
}

// holds asks what has to be so for an object to be handed over.
func (c *conn) holds(ctx context.Context, query string, args ...any) error {
	var so bool
	if err := c.row(ctx, []any{&so}, query, args...); err != nil {
		return err
	}
	if !so {
		return errNoLongerInert
	}
	return nil
}

// A sequence cannot be locked like a table, and nobody can put code on one.
const (
	lockIsOurs = `
		SELECT $2::text = 'SEQUENCE' OR EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid()
			AND locktype = 'relation' AND relation = $1::oid AND mode = 'AccessExclusiveLock' AND granted)`
	changeIsOurs = `
		SELECT EXISTS (SELECT FROM pg_class WHERE oid = $1::oid AND pg_get_userbyid(relowner) = $2::text
			AND xmin::text::bigint = txid_current() & 4294967295)`
)

// harmlessDefault matches, as the server writes them with our search_path, the
// default values that call nothing of anybody's: query_to_xml and its like are
// the server's own, and run whatever they are given.
const harmlessDefault = `^(nextval\('([^'\\]|'')*'::regclass\)|-?[0-9.]+|\('?-[0-9.]+'?\)(::[a-z ]+)?|'([^'\\]|'')*'::[a-z ]+(\([0-9,]+\))?(\[\])?|true|false|now\(\)|CURRENT_TIMESTAMP|CURRENT_DATE|(gen_random_uuid|uuidv4|uuidv7)\(\))$`

// inertQuery lists a role's plain tables and free-standing sequences, or one
// of them. Numbers below 16384 are the server's own: what is above, somebody
// made. Beside what runs code itself, a table stays where
//
//   - others may put a trigger on it or refer to it, or hand that right on;
//   - a table that is not the new owner's refers to it: what cascades to that
//     one may set off its deferred triggers, up to PostgreSQL 17 with the rights
//     of who began.
const inertQuery = `
	SELECT c.oid, 'TABLE', c.oid::regclass::text FROM pg_class c
	WHERE c.relowner = $1 AND $2::oid IN (0, c.oid) AND c.relkind = 'r' AND c.relpersistence IN ('p', 'u')
	  AND NOT c.relrowsecurity AND NOT c.relforcerowsecurity AND NOT c.relispartition AND c.reloftype = 0 AND c.relam < 16384
	  AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal)
	  AND NOT EXISTS (SELECT FROM pg_rewrite WHERE ev_class = c.oid)
	  AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid)
	  AND NOT EXISTS (SELECT FROM pg_inherits WHERE c.oid IN (inhrelid, inhparent))
	  AND NOT EXISTS (SELECT FROM pg_statistic_ext WHERE stxrelid = c.oid)
	  AND NOT EXISTS (SELECT FROM pg_publication_rel WHERE prrelid = c.oid)
	  AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid AND contype NOT IN ('p', 'u', 'f', 'n'))
	  AND NOT EXISTS (SELECT FROM pg_constraint k JOIN pg_class o ON o.oid = k.conrelid
	                  WHERE k.confrelid = c.oid AND k.conrelid <> c.oid AND pg_get_userbyid(o.relowner) <> $4)
	  AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
	                  AND (attgenerated <> '' OR atttypid >= 16384 OR attcollation >= 16384))
	  AND NOT EXISTS (SELECT FROM pg_attrdef WHERE adrelid = c.oid AND pg_get_expr(adbin, adrelid) !~ $3)
	  AND NOT EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid
	                  AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL OR x.relam >= 16384
	                       OR EXISTS (SELECT FROM unnest(i.indclass::oid[]) AS k(class) WHERE k.class >= 16384)))
	  AND NOT EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner AND (a.is_grantable OR a.privilege_type IN ('TRIGGER', 'MAINTAIN', 'REFERENCES')))
	  AND NOT EXISTS (SELECT FROM pg_attribute t, aclexplode(t.attacl) a WHERE t.attrelid = c.oid AND a.grantee <> c.relowner AND (a.is_grantable OR a.privilege_type = 'REFERENCES'))
	UNION ALL
	SELECT c.oid, 'SEQUENCE', c.oid::regclass::text FROM pg_class c
	WHERE c.relowner = $1 AND $2::oid IN (0, c.oid) AND c.relkind = 'S'
	  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i'))
	ORDER BY 2, 1`
