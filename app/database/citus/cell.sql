-- What a cell has beside its tables and functions where it is a schema of a Citus cluster; `migrate` fills in `{shard}`,
-- the number of a shard of the cell, and the names of the shards (app/database/citus/functions.py).


-- Called by each function that writes to shards, before it does: those writes are none of Citus's, so a move of the
-- cell to another node would not wait for them, and they would be lost with the copy that the old node drops. With this
-- lock the move waits for the transaction, as for any write of Citus's own; and once a move has ended, the second
-- statement, whose snapshot is taken behind the lock, sees that the rows are elsewhere. Then the caller makes the
-- attempt again, and Citus sends it to the new node.
CREATE OR REPLACE FUNCTION enter_cell() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    here integer;
    is_begun boolean;
BEGIN
    -- The session's own settings stay on the node that the client speaks to.
    PERFORM set_config('synchronous_commit', 'on', true), lock_shard_metadata(5, ARRAY[{shard}]);
    SELECT groupid INTO here FROM pg_dist_local_group JOIN pg_dist_placement USING (groupid) WHERE shardid = {shard};
    IF here IS NULL THEN
        RAISE EXCEPTION 'the cell has moved to another node' USING ERRCODE = 'serialization_failure';
    END IF;
    -- Only now: the tables may have gone with the cell. The margin is for the groups that are under way, of which none
    -- looks again.
    SELECT group_id = here AND last_value BETWEEN first_position AND last_position - 500000 INTO is_begun
    FROM position_ranges, event_positions;
    IF NOT is_begun THEN
        PERFORM begin_positions(here);
    END IF;
END $$;
REVOKE ALL ON FUNCTION enter_cell() FROM PUBLIC;


-- A sequence does not move with the cell: each node has one of its own. So positions are given in ranges, of which the
-- row in position_ranges, which does move, has the latest: the node that the cell has come to begins behind it. No
-- position is given that is lower than one that a reader has passed.
CREATE OR REPLACE FUNCTION begin_positions(here integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET citus.enable_ddl_propagation = off
SET citus.enable_manual_changes_to_shards = on AS $$
DECLARE
    home record;
    last bigint;
BEGIN
    SELECT group_id, first_position, last_position FROM position_ranges FOR UPDATE INTO home;
    SELECT last_value FROM event_positions INTO last;
    IF home.group_id = here AND last BETWEEN home.first_position AND home.last_position - 500000 THEN
        RETURN;
    END IF;
    IF home.group_id <> here OR last NOT BETWEEN home.first_position AND home.last_position THEN
        last := home.last_position + 1;
        EXECUTE format('ALTER SEQUENCE event_positions MINVALUE 1 MAXVALUE %s START 1 RESTART %s',
            x'ffffffffffff'::bigint, last);
        PERFORM nextval('event_positions');
    ELSE
        last := home.first_position;
    END IF;
    UPDATE position_ranges
    SET group_id = here, first_position = last, last_position = home.last_position + 1000000;
END $$;
REVOKE ALL ON FUNCTION begin_positions(integer) FROM PUBLIC;


-- The last position that this cell has given, or one above it that it never will: where it has not stored since it came,
-- all positions up to the end of the latest range are behind it.
CREATE OR REPLACE FUNCTION last_position() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    last bigint;
BEGIN
    SELECT CASE
        WHEN group_id = groupid AND last_value BETWEEN first_position AND last_position THEN last_value
        ELSE last_position
    END
    FROM position_ranges, event_positions, pg_dist_local_group INTO last;
    RETURN last;
END $$;
REVOKE ALL ON FUNCTION last_position() FROM PUBLIC;


-- Runs an INSERT of rows that it finds itself, which Citus would send from node to node, on the shards; as the role that
-- calls it, with its rights and policies. `given` is `$1` in the statement. Returns how many rows it has written.
CREATE OR REPLACE FUNCTION run_on_shards(statement text, given jsonb) RETURNS bigint
LANGUAGE plpgsql SET search_path FROM CURRENT SET citus.enable_manual_changes_to_shards = on AS $$
DECLARE
    named record;
    written bigint;
BEGIN
    PERFORM enter_cell_for_app();
    FOR named IN
        SELECT relname, relname || '_' || shardid AS shard
        FROM pg_dist_shard JOIN pg_class ON pg_class.oid = logicalrelid
        WHERE relnamespace = current_schema()::text::regnamespace
    LOOP
        statement := regexp_replace(statement, '\m(FROM|JOIN|INTO|USING)(\s+)' || named.relname || '\M(?!\()',
            '\1\2' || named.shard, 'g');
    END LOOP;
    EXECUTE statement USING given;
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END $$;
REVOKE ALL ON FUNCTION run_on_shards(text, jsonb) FROM PUBLIC;


-- The lock on the metadata is the owner's to take.
CREATE OR REPLACE FUNCTION enter_cell_for_app() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM enter_cell();
END $$;
REVOKE ALL ON FUNCTION enter_cell_for_app() FROM PUBLIC;
