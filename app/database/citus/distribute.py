"""Makes a migrated schema a cell of a Citus cluster; called by `migrate`, as the owner, on the coordinator."""

from typing import Final

from sqlalchemy import Connection, text

from app.cells.names import ROW_IDS, row_ids
from app.database.citus.functions import make_home, name_shards

NODES_MAX: Final = 64
"""How many nodes a cluster may have had: each has its share of the cell's row ids, by the number of its group."""

_HAS_CITUS: Final = text("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')")
_STATE: Final = text("""
    SELECT current_schema() AS schema, citus_is_coordinator() AS is_coordinator,
        EXISTS (SELECT FROM pg_dist_schema WHERE schemaid = current_schema()::text::regnamespace) AS is_distributed
""")
_DISTRIBUTE: Final = text("SELECT citus_schema_distribute(current_schema()::text::regnamespace)")
# On each node: Citus has given the sequences of the workers ranges of its own, whose numbers are no row ids of ours (an
# advisory lock has 48 bits for one). What the node has given before is in the tables, also after Citus has made its
# sequences anew.
_SHARE: Final = """
DO $block$
DECLARE
    share bigint := {share};
    first bigint := {first} + share * (SELECT groupid FROM pg_dist_local_group);
    numbered record;
    last bigint;
BEGIN
    SET LOCAL citus.enable_ddl_propagation = off;
    FOR numbered IN
        -- Materialized: of other cells' tables no sequence may be asked for.
        WITH ours AS MATERIALIZED (
            SELECT attrelid::regclass AS relation, attname AS name
            FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
            WHERE attidentity <> '' AND relnamespace = {schema}::regnamespace
        )
        SELECT relation, name, seqrelid::regclass AS sequence
        FROM ours JOIN pg_sequence ON seqrelid = pg_get_serial_sequence(relation::text, name)::regclass
        WHERE seqmax <> first + share - 1
    LOOP
        EXECUTE format('SELECT max(%I) FROM %s WHERE %I BETWEEN %s AND %s', numbered.name, numbered.relation,
            numbered.name, first, first + share - 1) INTO last;
        EXECUTE format('ALTER SEQUENCE %s MINVALUE %s MAXVALUE %s START %s RESTART %s', numbered.sequence, first,
            first + share - 1, first, coalesce(last + 1, first));
    END LOOP;
END $block$
"""
_ON_ALL_NODES: Final = text("""
    SELECT result FROM run_command_on_all_nodes(:command) WHERE NOT success
    UNION ALL
    SELECT 'group ' || groupid FROM pg_dist_node WHERE groupid >= :nodes
""")


class ClusterError(Exception):
    """The cell cannot be distributed; the message is one line that says what to do."""


def is_cluster(connection: Connection, cell: str) -> bool:
    """Whether the server is the coordinator of a Citus cluster. Raises ClusterError where no cell can be made of it."""
    if not connection.execute(_HAS_CITUS).scalar_one():
        return False
    state = connection.execute(_STATE).one()
    if not state.is_coordinator:
        raise ClusterError("this node is a worker of a Citus cluster: migrate on its coordinator")
    if state.schema == "public" or not cell:
        raise ClusterError(
            "on a Citus cluster each cell is a schema of its own and has a name: set the search_path of its roles,"
            " and LARIBA_CELLS (docs/scaling.md)"
        )
    return True


def distribute(connection: Connection) -> None:
    """Spread the cell's schema over the cluster, or bring what a migration has made anew in line; safe to repeat."""
    make_home(connection)
    if not connection.execute(_STATE).one().is_distributed:
        connection.execute(_DISTRIBUTE)
    name_shards(connection)


def share_row_ids(connection: Connection, cell: str) -> None:
    """Give each node its share of the cell's row ids: each numbers the rows of the statements that it is sent.

    In transactions of the nodes' own, so after distribute() has been committed. Raises ClusterError.
    """
    schema = connection.execute(text("SELECT quote_literal(current_schema())")).scalar_one()
    command = _SHARE.format(share=ROW_IDS // NODES_MAX, first=row_ids(cell)[0], schema=schema)
    if failed := connection.execute(_ON_ALL_NODES, {"command": command, "nodes": NODES_MAX}).scalars().first():
        raise ClusterError(f"a node did not take its share of row ids; migrate again ({failed})")
