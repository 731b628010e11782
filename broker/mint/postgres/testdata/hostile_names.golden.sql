CREATE ROLE "dp_prod_tabcde_abcdefghijkl" LOGIN INHERIT PASSWORD 'SCRAM-SHA-256$1:AAAAAAAAAAAAAAAAAAAAAA==$bKyM6z0pxoPahcWj4HDPEs3gLa6uvhLj25aajFyNRRw=:K+xPvNpW226t/UVIka7f2PT7wVQD1ad2INoijYEctjc=' VALID UNTIL '2026-11-23 12:00:00+00' CONNECTION LIMIT 5;
GRANT "a'b\c" TO "dp_prod_tabcde_abcdefghijkl";
GRANT "z""; DROP" TO "dp_prod_tabcde_abcdefghijkl";
ALTER ROLE "dp_prod_tabcde_abcdefghijkl" SET role =  E'a''b\\c';
COMMENT ON ROLE "dp_prod_tabcde_abcdefghijkl" IS  E'{"by":"daypass","lease":"dpl_golden","place":"ci/''\\\\"}';
ALTER ROLE "dp_prod_tabcde_abcdefghijkl" NOLOGIN PASSWORD NULL VALID UNTIL '1970-01-01 00:00:00+00';
