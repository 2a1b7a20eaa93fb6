-- Content commits: a batch of them, at most one for a node, set by set.

-- What becomes of one commit of a batch: its code as in 0003, the version and objects before it, whether that version is
-- replaced rather than kept (a flush of the same session, or a named stream, which has no history).
CREATE TYPE verdict AS (i bigint, code bigint, detail bigint, prev bigint, prev_objects bigint, replaced boolean);

-- `p_shards`: the high bits of a fence are the epoch of the document's shard, which must still be current; without it the
-- writer is alone and a fence of 0 passes.
CREATE FUNCTION commit_verdicts(
    p_shards boolean, p_node bigint[], p_stream bigint[], p_base bigint[], p_fence bigint[], p_shard integer[],
    p_op bytea[], p_session bytea[], p_object_of bigint[], p_object bytea[]) RETURNS verdict[]
LANGUAGE plpgsql AS $$
DECLARE held bigint[]; found verdict[];
BEGIN
    IF p_shards THEN
        -- In the order of their numbers; the epoch is in the key, so that a take-over waits for this commit or it for that.
        SELECT array_agg((l.shard::bigint << 44) | l.epoch) INTO held FROM (
            SELECT s.shard, s.epoch FROM lock_shard s
              JOIN (SELECT DISTINCT w.shard, w.fence >> 20 AS epoch FROM unnest(p_shard, p_fence) AS w(shard, fence)) AS w
                ON s.shard = w.shard AND s.epoch = w.epoch
              ORDER BY s.shard FOR KEY SHARE OF s) AS l;
    END IF;
    PERFORM 1 FROM node WHERE id = ANY(p_node) ORDER BY id FOR NO KEY UPDATE;
    -- Statements from here on see everything that was committed before those locks were given.
    SELECT array_agg(ROW(w.i, CASE
        WHEN n.id IS NULL THEN 2
        WHEN w.stream = 0 AND n.kind = 2 THEN 5
        WHEN w.stream = 0 AND n.kind <> 1 THEN 8
        WHEN w.stream > 0 AND NOT EXISTS(SELECT 1 FROM stream s WHERE s.node = w.node AND s.stream = w.stream) THEN 1
        WHEN c.op = w.op OR EXISTS(SELECT 1 FROM content d WHERE d.node = w.node AND d.stream = w.stream
                                   AND d.version = w.base + 1 AND d.op = w.op) THEN -1
        WHEN p_shards AND NOT coalesce(((w.shard::bigint << 44) | (w.fence >> 20)) = ANY(held), false) THEN 12
        WHEN w.fence < n.fence AND (p_shards OR w.fence <> 0) THEN 12
        WHEN coalesce(c.version, 0) <> w.base THEN 10
        WHEN EXISTS(SELECT 1 FROM unnest(p_object_of, p_object) AS x(i, id) JOIN object o ON o.id = x.id
                    WHERE x.i = w.i AND (o.node <> w.node OR o.stream <> w.stream)) THEN 13
        ELSE 0 END,
        CASE WHEN n.id IS NULL THEN w.node ELSE coalesce(c.version, 0) END,
        coalesce(c.version, 0), coalesce(c.objects, 0), w.stream <> 0 OR c.session = w.session)::verdict) INTO found
      FROM unnest(p_node, p_stream, p_base, p_fence, p_shard, p_op, p_session) WITH ORDINALITY
             AS w(node, stream, base, fence, shard, op, session, i)
      LEFT JOIN node n ON n.id = w.node
      LEFT JOIN LATERAL (SELECT x.version, x.op, x.session, x.objects FROM content x
                         WHERE x.node = w.node AND x.stream = w.stream ORDER BY x.version DESC LIMIT 1) AS c ON true;
    RETURN found;
END $$;

-- Drops what no version needs any more: replaced versions, and those beyond the policy (more than `keep` of them, or
-- superseded longer than `keep_ns` ago).
CREATE FUNCTION drop_versions(p_verdicts verdict[], p_node bigint[], p_stream bigint[], p_keep bigint[], p_keep_ns bigint[],
                              p_now bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE given_up bigint[];
BEGIN
    WITH old AS (
        SELECT w.node, w.stream, c.version, v.replaced AND c.version = v.prev AS replaced, w.keep, w.keep_ns, c.at
        FROM unnest(p_verdicts) AS v
          JOIN unnest(p_node, p_stream, p_keep, p_keep_ns) WITH ORDINALITY AS w(node, stream, keep, keep_ns, i) ON w.i = v.i
          JOIN content c ON c.node = w.node AND c.stream = w.stream AND c.version <= v.prev + 1
        WHERE v.code = 0 AND v.prev > 0
    ), ranked AS (
        SELECT o.*, row_number() OVER newer AS rank,
               min(o.at) OVER (newer ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS superseded
        FROM old o WHERE NOT o.replaced
        WINDOW newer AS (PARTITION BY o.node, o.stream ORDER BY o.version DESC)
    ), gone AS (
        DELETE FROM content c USING (
            SELECT node, stream, version FROM old WHERE replaced
            UNION ALL
            SELECT node, stream, version FROM ranked
              WHERE rank > 1 AND stream = 0 AND (rank > keep + 1 OR superseded < p_now - keep_ns)) AS d
        WHERE c.node = d.node AND c.stream = d.stream AND c.version = d.version
        RETURNING c.node, c.objects
    ) SELECT array_agg(DISTINCT g.node) INTO given_up FROM gone g WHERE g.objects > 0;
    IF given_up IS NOT NULL THEN
        WITH gone AS (
            DELETE FROM object o WHERE o.node = ANY(given_up) AND o.last IS NOT NULL AND NOT EXISTS(
                SELECT 1 FROM content c WHERE c.node = o.node AND c.stream = o.stream AND c.version BETWEEN o.first AND o.last)
            RETURNING o.id)
        INSERT INTO garbage(id, at) SELECT id, p_now / 1000000000 FROM gone ON CONFLICT DO NOTHING;
    END IF;
END $$;

CREATE FUNCTION commit_batch(
    p_member integer, p_epoch bigint, p_lane integer, p_batch bigint, p_shards boolean,
    p_node bigint[], p_stream bigint[], p_base bigint[], p_fence bigint[], p_shard integer[], p_op bytea[],
    p_session bytea[], p_size bigint[], p_allocated bigint[], p_author text[], p_protocol text[], p_body bytea[],
    p_keep bigint[], p_keep_ns bigint[], p_change text[],
    p_object_of bigint[], p_object bytea[]) RETURNS SETOF answer
LANGUAGE plpgsql AS $$
DECLARE done answer[]; changed answer[]; v verdict[]; now_ns bigint; objects boolean := cardinality(p_object) > 0;
BEGIN
    done := begin_batch(p_member, p_epoch, p_lane, p_batch);
    IF done IS NOT NULL THEN RETURN QUERY SELECT * FROM unnest(done); RETURN; END IF;
    v := commit_verdicts(p_shards, p_node, p_stream, p_base, p_fence, p_shard, p_op, p_session, p_object_of, p_object);
    now_ns := time_now();

    INSERT INTO content(node, stream, version, size, at, author, protocol, session, op, objects, body)
    SELECT w.node, w.stream, g.prev + 1, w.size, now_ns, w.author, w.protocol, w.session, w.op,
           (SELECT count(*) FROM unnest(p_object_of) AS x WHERE x = w.i), w.body
    FROM unnest(p_node, p_stream, p_op, p_session, p_size, p_author, p_protocol, p_body) WITH ORDINALITY
           AS w(node, stream, op, session, size, author, protocol, body, i)
      JOIN unnest(v) AS g ON g.i = w.i AND g.code = 0;

    IF objects OR EXISTS(SELECT 1 FROM unnest(v) AS g WHERE g.prev_objects > 0) THEN
        -- What the new version does not need ends with the old one.
        UPDATE object o SET last = g.prev
          FROM unnest(p_node, p_stream) WITH ORDINALITY AS w(node, stream, i)
            JOIN unnest(v) AS g ON g.i = w.i AND g.code = 0 AND g.prev_objects > 0
          WHERE o.node = w.node AND o.stream = w.stream AND o.last IS NULL AND o.id <> ALL(p_object);
        INSERT INTO object(id, node, stream, first, last)
          SELECT x.id, p_node[x.i], p_stream[x.i], g.prev + 1, NULL
          FROM unnest(p_object_of, p_object) AS x(i, id) JOIN unnest(v) AS g ON g.i = x.i AND g.code = 0 ORDER BY x.id
          ON CONFLICT(id) DO UPDATE SET last = NULL;
        -- Should one have been given up in between, it is needed again.
        DELETE FROM garbage WHERE id IN (
            SELECT x.id FROM unnest(p_object_of, p_object) AS x(i, id) JOIN unnest(v) AS g ON g.i = x.i AND g.code = 0);
    END IF;
    IF EXISTS(SELECT 1 FROM unnest(v) AS g WHERE g.code = 0 AND g.prev > 0) THEN
        PERFORM drop_versions(v, p_node, p_stream, p_keep, p_keep_ns, now_ns);
    END IF;
    IF 0 < ANY(p_stream) THEN
        UPDATE stream s SET size = w.size, allocated = w.allocated
          FROM unnest(p_node, p_stream, p_size, p_allocated) WITH ORDINALITY AS w(node, stream, size, allocated, i)
            JOIN unnest(v) AS g ON g.i = w.i AND g.code = 0
          WHERE s.node = w.node AND s.stream = w.stream;
    END IF;

    WITH changed AS (
        UPDATE node AS n SET
            size = CASE w.stream WHEN 0 THEN w.size ELSE n.size END,
            allocated = CASE w.stream WHEN 0 THEN w.allocated ELSE n.allocated END,
            version = CASE w.stream WHEN 0 THEN g.prev + 1 ELSE n.version END,
            mode = coalesce((w.change->>'mode')::bigint & 4095, n.mode), uid = coalesce((w.change->>'uid')::bigint, n.uid),
            gid = coalesce((w.change->>'gid')::bigint, n.gid), atime = coalesce((w.change->>'atime')::bigint, n.atime),
            mtime = coalesce((w.change->>'mtime')::bigint, CASE w.stream WHEN 0 THEN now_ns ELSE n.mtime END),
            btime = coalesce((w.change->>'btime')::bigint, n.btime), dos = coalesce((w.change->>'dos')::bigint, n.dos),
            ctime = coalesce((w.change->>'ctime')::bigint, now_ns), change_id = n.change_id + 1,
            fence = greatest(n.fence, w.fence)
        FROM (SELECT u.node, u.stream, u.size, u.allocated, u.fence, u.change::jsonb AS change, u.i
              FROM unnest(p_node, p_stream, p_size, p_allocated, p_fence, p_change) WITH ORDINALITY
                     AS u(node, stream, size, allocated, fence, change, i)) AS w
          JOIN unnest(v) AS g ON g.i = w.i AND g.code = 0
        WHERE n.id = w.node
        RETURNING w.i, g.prev + 1 AS version, n AS changed_node)
    SELECT array_agg(ROW(c.i, 0, 0, c.version, c.changed_node)::answer) INTO changed FROM changed c;
    SELECT coalesce(array_agg(CASE g.code WHEN -1 THEN ROW(g.i, 0, 0, p_base[g.i] + 1, n)::answer
                              ELSE ROW(g.i, 0, g.code, g.detail, NULL)::answer END), '{}') INTO done
      FROM unnest(v) AS g LEFT JOIN node n ON g.code = -1 AND n.id = p_node[g.i] WHERE g.code <> 0;
    done := done || coalesce(changed, '{}');
    PERFORM end_batch(p_member, p_epoch, p_lane, p_batch, done);
    RETURN QUERY SELECT * FROM unnest(done);
END $$;
