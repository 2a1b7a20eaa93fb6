-- Which documents NFS clients may have locked.
-- For some time this was part of steps 3 and 4: databases may have some of it or none.

-- Documents on which NFS clients of a node's life may have locks: kept for them when that life is over.
CREATE TABLE IF NOT EXISTS nfs_locked(
    epoch bigint NOT NULL, document bigint NOT NULL,
    PRIMARY KEY(epoch, document)
);

-- Documents on which NFS clients of the node may have locks: 'do' is note or forget.
CREATE OR REPLACE FUNCTION op_locked(i bigint, o jsonb, p_epoch bigint) RETURNS answer[] LANGUAGE plpgsql AS $$
BEGIN
    IF o->>'do' = 'note' THEN
        INSERT INTO nfs_locked(epoch, document)
          SELECT p_epoch, x::bigint FROM jsonb_array_elements_text(o->'documents') AS x ON CONFLICT DO NOTHING;
    ELSE
        DELETE FROM nfs_locked AS l WHERE l.epoch = p_epoch
          AND l.document IN (SELECT x::bigint FROM jsonb_array_elements_text(o->'documents') AS x);
    END IF;
    RETURN refuse(i, 0, 0);
END $$;

-- Carries out a batch. `p_locks`: nodes that it is known to change; `p_parents`, `p_folds`: names whose nodes it may change.
-- All of them are locked in the order of their numbers, so that batches of several nodes don't wait for each other in a ring.
CREATE OR REPLACE FUNCTION change_batch(p_member integer, p_epoch bigint, p_lane integer, p_batch bigint, p_ops jsonb, p_blobs bytea[],
                             p_locks bigint[], p_parents bigint[], p_folds text[]) RETURNS SETOF answer
LANGUAGE plpgsql AS $$
DECLARE
    done answer[]; part answer[]; o jsonb; i bigint := 0; now_ns bigint; locks bigint[] := p_locks;
BEGIN
    done := begin_batch(p_member, p_epoch, p_lane, p_batch);
    IF done IS NOT NULL THEN RETURN QUERY SELECT * FROM unnest(done); RETURN; END IF;
    IF cardinality(p_parents) > 0 THEN
        SELECT locks || coalesce(array_agg(e.node), '{}') INTO locks
          FROM unnest(p_parents, p_folds) AS w(parent, fold) JOIN entry e ON e.parent = w.parent AND e.fold = w.fold;
    END IF;
    IF cardinality(locks) > 1 THEN
        PERFORM 1 FROM node WHERE id = ANY(locks) ORDER BY id FOR NO KEY UPDATE;
    END IF;
    now_ns := time_now();
    done := '{}';
    FOR o IN SELECT * FROM jsonb_array_elements(p_ops) LOOP
        IF o ? 'call' THEN
            -- Waits for the same call under way on another node.
            INSERT INTO client_call(id, at) VALUES (p_blobs[(o->>'call')::int], now_ns) ON CONFLICT DO NOTHING;
            IF NOT FOUND THEN
                done := done || refuse(i, 14, 0);
                i := i + 1;
                CONTINUE;
            END IF;
        END IF;
        CASE o->>'k'
            WHEN 'create' THEN part := op_create(i, o, p_blobs, now_ns);
            WHEN 'set' THEN part := op_set(i, o, p_blobs, now_ns);
            WHEN 'unlink' THEN part := op_unlink(i, o, p_member, p_epoch, now_ns);
            WHEN 'rename' THEN part := op_rename(i, o, p_member, p_epoch, now_ns);
            WHEN 'link' THEN part := op_link(i, o, now_ns);
            WHEN 'release' THEN part := op_release(i, o, now_ns);
            WHEN 'stream' THEN part := op_stream(i, o, now_ns);
            WHEN 'record' THEN part := op_record(i, o, p_blobs);
            WHEN 'acl' THEN part := op_acl(i, o);
            WHEN 'counter' THEN part := op_counter(i, o);
            WHEN 'setting' THEN part := op_setting(i, o, p_blobs);
            WHEN 'garbage' THEN part := op_garbage(i, o, p_blobs, now_ns);
            WHEN 'locked' THEN part := op_locked(i, o, p_epoch);
            WHEN 'touch' THEN part := op_touch(i, o);
            WHEN 'calls' THEN
                DELETE FROM client_call WHERE at < now_ns - 300000000000;
                part := refuse(i, 0, 0);
        END CASE;
        IF o ? 'call' AND (part[1]).code <> 0 THEN
            -- Refused: the call has changed nothing.
            DELETE FROM client_call WHERE id = p_blobs[(o->>'call')::int];
        END IF;
        done := done || part;
        i := i + 1;
    END LOOP;
    PERFORM end_batch(p_member, p_epoch, p_lane, p_batch, done);
    RETURN QUERY SELECT * FROM unnest(done);
END $$;
