package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// tidy does about what a role owns what on_owned says, and takes away what it
// was granted, in every database that has any of it. What cannot be done is
// noted for the operator; what may be done another time is an error.
func (r *revocation) tidy(ctx context.Context) error {
	r.why = nil
	if !r.super { // else one may do nothing to what is the role's
		if err := r.exec(ctx, become(r.version, string(r.handle))); err != nil {
			return err
		}
	}
	databases, err := rows[struct{ Name string }](ctx, r.conn, `
		SELECT DISTINCT d.datname::text FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid OR s.dbid = 0 AND d.datname = current_database()
		WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1 ORDER BY 1`, r.oid)
	if err != nil {
		return err
	}
	for _, d := range databases {
		err := r.in(ctx, d.Name, func(c *conn) error { return r.tidyIn(ctx, c) })
		if err := r.note(d.Name, err); err != nil {
			return err
		}
	}
	return nil
}

func (r *revocation) tidyIn(ctx context.Context, c *conn) error {
	switch r.params.OnOwned.Way {
	case reassignOwned:
		if err := r.note(c.database, r.reassign(ctx, c)); err != nil {
			return err
		}
	case dropOwned:
		return r.dropOwned(ctx, c)
	}
	owned, err := rows[struct{ N int }](ctx, c, `
		SELECT count(*)::int FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid AND d.datname = current_database()
		WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1 AND s.deptype = 'o' AND s.classid <> 'pg_default_acl'::regclass`, r.oid)
	if err != nil {
		return err
	}
	if owned[0].N == 0 { // then this drops nothing, and takes away what was granted
		return r.dropOwned(ctx, c)
	}
	return r.stripGrants(ctx, c)
}

// dropOwned drops what the role owns in one database, and takes away what it
// was granted there. What others have built on it stays, and it with that.
func (r *revocation) dropOwned(ctx context.Context, c *conn) error {
	return retry(ctx, func() error { return c.exec(ctx, "DROP OWNED BY "+r.name) })
}

// stripGrants takes away what the role was granted. A user that stays behind
// must not keep it: a routine of its own runs with its rights for whoever
// calls it (SECURITY DEFINER), long after its expiry.
func (r *revocation) stripGrants(ctx context.Context, c *conn) error {
	list, err := rows[struct{ Object string }](ctx, c, grantsQuery(c.version), r.oid)
	if err != nil {
		return err
	}
	for _, g := range list {
		sql := "REVOKE ALL ON " + g.Object + " FROM " + r.name + " CASCADE"
		if forRole, ok := strings.CutPrefix(g.Object, "DEFAULT "); ok {
			sql = "ALTER DEFAULT PRIVILEGES " + forRole + " FROM " + r.name
		}
		err := retry(ctx, func() error { return c.exec(ctx, sql) })
		if err := r.note(c.database, err); err != nil {
			return err
		}
	}
	return nil
}

// grantsQuery names each object that a role was granted something on, as
// REVOKE wants it. The names come quoted from the server, and qualified, since
// our search_path holds none of theirs.
func grantsQuery(version int) string {
	parameters := ""
	if version >= 150000 {
		parameters = `WHEN 'pg_parameter_acl'::regclass THEN (SELECT 'PARAMETER ' || quote_ident(parname) FROM pg_parameter_acl WHERE oid = s.objid)`
	}
	return `
		SELECT DISTINCT object FROM (SELECT CASE s.classid
			WHEN 'pg_class'::regclass THEN (SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || oid::regclass::text FROM pg_class WHERE oid = s.objid)
			WHEN 'pg_proc'::regclass THEN 'ROUTINE ' || s.objid::regprocedure::text
			WHEN 'pg_namespace'::regclass THEN (SELECT 'SCHEMA ' || quote_ident(nspname) FROM pg_namespace WHERE oid = s.objid)
			WHEN 'pg_type'::regclass THEN (SELECT 'TYPE ' || quote_ident(nspname) || '.' || quote_ident(typname) FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace WHERE t.oid = s.objid)
			WHEN 'pg_language'::regclass THEN (SELECT 'LANGUAGE ' || quote_ident(lanname) FROM pg_language WHERE oid = s.objid)
			WHEN 'pg_foreign_data_wrapper'::regclass THEN (SELECT 'FOREIGN DATA WRAPPER ' || quote_ident(fdwname) FROM pg_foreign_data_wrapper WHERE oid = s.objid)
			WHEN 'pg_foreign_server'::regclass THEN (SELECT 'FOREIGN SERVER ' || quote_ident(srvname) FROM pg_foreign_server WHERE oid = s.objid)
			WHEN 'pg_largeobject'::regclass THEN 'LARGE OBJECT ' || s.objid
			WHEN 'pg_database'::regclass THEN (SELECT 'DATABASE ' || quote_ident(datname) FROM pg_database WHERE oid = s.objid)
			WHEN 'pg_tablespace'::regclass THEN (SELECT 'TABLESPACE ' || quote_ident(spcname) FROM pg_tablespace WHERE oid = s.objid)
			WHEN 'pg_default_acl'::regclass THEN (SELECT 'DEFAULT FOR ROLE ' || quote_ident(pg_get_userbyid(defaclrole))
				|| coalesce(' IN SCHEMA ' || quote_ident((SELECT nspname FROM pg_namespace n WHERE n.oid = defaclnamespace)), '')
				|| ' REVOKE ALL ON ' || CASE defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' WHEN 'L' THEN 'LARGE OBJECTS' ELSE 'SCHEMAS' END
				FROM pg_default_acl WHERE oid = s.objid)
			` + parameters + ` END AS object
		FROM pg_shdepend s
		WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1 AND s.deptype = 'a'
		  AND (s.dbid = 0 OR s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))) o
		WHERE object IS NOT NULL ORDER BY 1`
}

// note keeps for the operator what trying again would not change, and returns
// any other error.
func (r *revocation) note(database string, err error) error {
	switch codeOf(err) {
	case codeNoRight, codeDependents, codeWrongPassword, codeNotAuthorized, codeOutOfMemory, codeNotThere, codeUnsupported, codeWrongState:
		r.why = append(r.why, printable(fmt.Sprintf("in %q: %v", database, err)))
		r.why = slices.Compact(r.why)
		return nil
	case codeNoSuchRole, codeNoSuchTable: // somebody else dropped it
		return nil
	}
	return err
}
