"""Text is compared by code points, whatever locale the database has; and the audit trail's filters find their rows.

An index on text relies on the order of its collation. That of a locale comes from the C library, whose upgrade can
change it: then a unique index misses the row that it holds, and a double gets in. COLLATE "C" is the order of bytes and
changes never. It is on every text column and not on the unique ones alone, so that no index, join or comparison to come
has to think of it: names are listed by id, and nothing here is sorted for a reader's eyes.

The trail: an entry's kind of object is a column, because below row level security a prefix of its action is no
condition that an index may serve (LIKE could leak what it is shown). And no index is of ids alone any more: the planner
took it for a workspace whose entries it believed to be spread evenly, and went through all those of others before.
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# A partition follows its parent. One that is being filled, or was detached, is a table like any other. A column's type
# cannot be changed under a view.
_COLLATE = """
    DO $$
    DECLARE
        relation regclass;
        changes text;
        readable_events text := pg_get_viewdef('readable_events'::regclass);
    BEGIN
        DROP VIEW readable_events;
        FOR relation, changes IN
            SELECT attrelid::regclass, string_agg(
                format('ALTER COLUMN %I TYPE %s COLLATE %s', attname, format_type(atttypid, atttypmod), '{collation}'),
                ', ')
            FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
                AND atttypid IN ('text'::regtype, 'text[]'::regtype) AND NOT attisdropped
            GROUP BY attrelid
        LOOP
            EXECUTE format('ALTER TABLE %s %s', relation, changes);
        END LOOP;
        EXECUTE 'CREATE VIEW readable_events AS ' || readable_events;
    END $$
"""
_AUDIT_INDEXES = {
    "action": "(workspace_id, action, id)",
    "object_kind": "(workspace_id, object_kind, id)",
    "project_id": "(workspace_id, project_id, id)",
    "created_at": "(workspace_id, created_at, id)",
}


def _collate(collation: str) -> None:
    op.execute("SET LOCAL statement_timeout = 0")
    op.execute(_COLLATE.replace("{collation}", collation))


def upgrade() -> None:
    _collate('"C"')
    op.execute("""
        ALTER TABLE audit_entries ADD COLUMN object_kind text COLLATE "C" NOT NULL
            GENERATED ALWAYS AS (split_part(action, '.', 1)) STORED""")
    for name, columns in _AUDIT_INDEXES.items():
        op.execute(f"CREATE INDEX ix_audit_entries_{name} ON audit_entries {columns}")
    op.execute("""
        ALTER TABLE audit_entries DROP CONSTRAINT pk_audit_entries,
            ADD CONSTRAINT pk_audit_entries PRIMARY KEY (workspace_id, id)""")
    op.execute("DROP INDEX ix_audit_entries_workspace_id")


def downgrade() -> None:
    op.execute("CREATE INDEX ix_audit_entries_workspace_id ON audit_entries (workspace_id, id)")
    op.execute("""
        ALTER TABLE audit_entries DROP CONSTRAINT pk_audit_entries, ADD CONSTRAINT pk_audit_entries PRIMARY KEY (id)""")
    for name in _AUDIT_INDEXES:
        op.execute(f"DROP INDEX ix_audit_entries_{name}")
    op.execute("ALTER TABLE audit_entries DROP COLUMN object_kind")
    _collate('pg_catalog."default"')
