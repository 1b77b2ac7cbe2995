-- The two roles and the database, for psql as a superuser. The passwords are in the folder that SECRETS names.
--     SECRETS=/etc/lariba/secrets psql -X -v ON_ERROR_STOP=1 -f deploy/roles.sql
\set owner_password `cat "${SECRETS:-/run/secrets}/owner_password"`
\set app_password `cat "${SECRETS:-/run/secrets}/app_password"`

CREATE ROLE lariba_owner LOGIN PASSWORD :'owner_password';
-- So that a task which waits for a transaction can say for how long that has been open.
GRANT pg_read_all_stats TO lariba_owner;
-- A member of no other role: row level security binds this one, and keeps workspaces apart (docs/decisions/0011).
CREATE ROLE lariba_app LOGIN PASSWORD :'app_password' NOSUPERUSER NOBYPASSRLS;
-- The order of code points, as every text column of the product has it: what no upgrade of the C library changes.
CREATE DATABASE lariba OWNER lariba_owner ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0;
-- A role for reports sees one workspace, and is made when it is wanted: docs/operations.md.
