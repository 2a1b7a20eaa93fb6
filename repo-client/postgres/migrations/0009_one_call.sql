-- What others wait for when a node is lost, each in one call. Every statement of a function sees what was committed before that
-- statement began: it is what a transaction of single statements would do, without their way to and fro.

-- Takes a member's row, which stays; renewals pass. Whether it is there, and whether its lease holds.
CREATE FUNCTION hold_member(p_member integer, p_epoch bigint, OUT there boolean, OUT fresh boolean) LANGUAGE plpgsql AS $$
BEGIN
    SELECT true, n.expires_at > clock_timestamp() INTO there, fresh FROM node_session AS n
      WHERE n.member = p_member AND n.epoch = p_epoch FOR KEY SHARE;
    there := coalesce(there, false);
    fresh := coalesce(fresh, false);
END $$;

-- Ends a life whose row is locked; its turn, its mail and what it should hear go too. What its NFS clients had locked is kept.
CREATE FUNCTION remove_member(p_member integer, p_epoch bigint, p_why smallint, p_by integer, p_keep interval) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    WITH gone AS (DELETE FROM node_session WHERE member = p_member AND epoch = p_epoch RETURNING name, addr)
    INSERT INTO past_member(member, epoch, name, addr, why, by_member, kept_until)
      SELECT p_member, p_epoch, g.name, g.addr, p_why, p_by, clock_timestamp() + p_keep FROM gone AS g;
    DELETE FROM peer_mailbox WHERE to_member = p_member AND to_epoch = p_epoch;
    DELETE FROM revocation WHERE holder = p_member AND holder_epoch = p_epoch;
END $$;

-- Counts a change of the member list or of the shard map: its version from now on.
CREATE FUNCTION count_change(p_key text, OUT version bigint, OUT transaction bigint) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE cluster_state SET value = value + 1 WHERE key = p_key RETURNING value INTO version;
    transaction := pg_current_xact_id()::text::bigint;
END $$;

-- Fences a member whose lease still ends at `p_expires` and has run out, or (NULL) whose life lock `p_life` is free. 'fenced', 'gone' (it
-- is no member), 'alive', or 'refused': the asking member has no lease of its own.
CREATE FUNCTION fence_member(p_me integer, p_my_epoch bigint, p_victim integer, p_victim_epoch bigint, p_expires bigint, p_life bigint,
                             p_why smallint, p_keep interval, OUT outcome text, OUT transaction bigint) LANGUAGE plpgsql AS $$
DECLARE
    mine record; theirs record; lower boolean := (p_me, p_my_epoch) < (p_victim, p_victim_epoch);
    synced text := current_setting('synchronous_commit');
BEGIN
    -- Row locks that change nothing need not reach the disk, nor keep the rows until they have.
    PERFORM set_config('synchronous_commit', 'off', true);
    IF lower THEN mine := hold_member(p_me, p_my_epoch); END IF;
    SELECT (extract(epoch FROM n.expires_at) * 1000000)::bigint AS expires, n.expires_at > clock_timestamp() AS fresh
      INTO theirs FROM node_session AS n WHERE n.member = p_victim AND n.epoch = p_victim_epoch FOR UPDATE;
    IF NOT lower THEN mine := hold_member(p_me, p_my_epoch); END IF;
    -- Without a lease of its own nobody judges others.
    IF NOT mine.fresh THEN outcome := 'refused'; RETURN; END IF;
    IF theirs.expires IS NULL THEN outcome := 'gone'; RETURN; END IF;
    outcome := 'alive';
    IF p_expires IS NULL THEN
        IF NOT pg_try_advisory_xact_lock(p_life) THEN RETURN; END IF;
    ELSIF theirs.fresh OR theirs.expires <> p_expires THEN
        RETURN;
    END IF;
    PERFORM set_config('synchronous_commit', synced, true);
    PERFORM remove_member(p_victim, p_victim_epoch, p_why, p_me, p_keep);
    transaction := (count_change('members')).transaction;
    outcome := 'fenced';
END $$;

-- Takes the rows of shards in one order, so that two nodes that take over at once wait for each other instead of standing crosswise.
CREATE FUNCTION lock_shards(p_shards integer[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM lock_shard WHERE shard = ANY(p_shards) ORDER BY shard FOR UPDATE;
END $$;

-- Makes a member the owner of those of the shards that still have the given epoch and whose owner is no member. `member`: whether it
-- is one itself; `version`: of the shard map with what was taken.
CREATE FUNCTION take_orphans(p_me integer, p_my_epoch bigint, p_shards integer[], p_epochs bigint[],
                             OUT member boolean, OUT shards integer[], OUT epochs bigint[],
                             OUT version bigint, OUT transaction bigint) LANGUAGE plpgsql AS $$
BEGIN
    member := (hold_member(p_me, p_my_epoch)).there;
    IF NOT member THEN RETURN; END IF;
    PERFORM lock_shards(p_shards);
    -- A member that is none now never becomes one again, so reading its row without a lock is enough.
    WITH taken AS (
        UPDATE lock_shard AS s SET owner = p_me, owner_epoch = p_my_epoch, epoch = s.epoch + 1
          FROM unnest(p_shards, p_epochs) AS w(shard, epoch)
          WHERE s.shard = w.shard AND s.epoch = w.epoch
            AND NOT EXISTS (SELECT 1 FROM node_session AS n WHERE n.member = s.owner AND n.epoch = s.owner_epoch)
          RETURNING s.shard, s.epoch)
    SELECT array_agg(t.shard), array_agg(t.epoch) INTO shards, epochs FROM taken AS t;
    IF shards IS NOT NULL THEN SELECT c.version, c.transaction INTO version, transaction FROM count_change('shards') AS c; END IF;
END $$;

-- Makes a member the owner of those of the shards that still have the given epoch and whose owner is `p_from`, if that is a member still
-- and has drawn `p_turn` last; those that are its own under the next epoch already are in the answer too. `member`: as above.
CREATE FUNCTION take_silent(p_me integer, p_my_epoch bigint, p_from integer, p_from_epoch bigint, p_turn bigint,
                            p_shards integer[], p_epochs bigint[],
                            OUT member boolean, OUT shards integer[], OUT epochs bigint[],
                             OUT version bigint, OUT transaction bigint) LANGUAGE plpgsql AS $$
DECLARE
    there boolean; lower boolean := (p_me, p_my_epoch) < (p_from, p_from_epoch); old_shards integer[]; old_epochs bigint[];
BEGIN
    IF lower THEN member := (hold_member(p_me, p_my_epoch)).there; END IF;
    there := (hold_member(p_from, p_from_epoch)).there;
    IF NOT lower THEN member := (hold_member(p_me, p_my_epoch)).there; END IF;
    IF NOT (member AND there) THEN RETURN; END IF;
    -- It draws none before the end of the transaction.
    PERFORM 1 FROM node_turn AS t WHERE t.member = p_from AND t.epoch = p_from_epoch AND t.turn = p_turn FOR SHARE;
    IF NOT FOUND THEN RETURN; END IF;
    PERFORM lock_shards(p_shards);
    -- What was taken before, and the answer was lost: the turn is the same still, so it was then.
    SELECT array_agg(s.shard), array_agg(s.epoch) INTO old_shards, old_epochs
      FROM lock_shard AS s JOIN unnest(p_shards, p_epochs) AS w(shard, epoch) ON s.shard = w.shard AND s.epoch = w.epoch + 1
      WHERE s.owner = p_me AND s.owner_epoch = p_my_epoch;
    WITH taken AS (
        UPDATE lock_shard AS s SET owner = p_me, owner_epoch = p_my_epoch, epoch = s.epoch + 1
          FROM unnest(p_shards, p_epochs) AS w(shard, epoch)
          WHERE s.shard = w.shard AND s.epoch = w.epoch AND s.owner = p_from AND s.owner_epoch = p_from_epoch
          RETURNING s.shard, s.epoch)
    SELECT array_agg(t.shard), array_agg(t.epoch) INTO shards, epochs FROM taken AS t;
    IF shards IS NOT NULL THEN SELECT c.version, c.transaction INTO version, transaction FROM count_change('shards') AS c; END IF;
    shards := shards || old_shards;
    epochs := epochs || old_epochs;
END $$;

-- Draws a member's turn; the version of the shard map after that. NULL: it is no member.
CREATE FUNCTION draw_turn(p_me integer, p_my_epoch bigint, p_turn bigint, OUT version bigint, OUT transaction bigint)
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (hold_member(p_me, p_my_epoch)).there THEN RETURN; END IF;
    -- Waits for a take-over that holds the row.
    UPDATE node_turn AS t SET turn = greatest(t.turn, p_turn) WHERE t.member = p_me AND t.epoch = p_my_epoch;
    IF NOT FOUND THEN RETURN; END IF;
    transaction := pg_current_xact_id()::text::bigint;
    -- A statement of its own: it sees what was committed while the one before waited.
    SELECT value INTO version FROM cluster_state WHERE key = 'shards';
END $$;
