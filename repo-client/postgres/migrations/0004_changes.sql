-- Changes of the namespace. Each function looks first, refuses (answer with a code) or changes, and never raises for what a
-- client may cause: so that the changes of a batch stand alone without savepoints.
-- Codes: 0 done, 1 not found, 2 stale (detail: node), 3 exists, 4 not a folder, 5 is a folder, 6 not empty, 7 into itself,
-- 8 wrong kind, 9 too many, 10 conflict (detail: version), 11 guard mismatch, 12 fenced, 13 object of another document,
-- 14 carried out before on behalf of the same call.

CREATE FUNCTION refuse(op bigint, code bigint, detail bigint) RETURNS answer[] LANGUAGE sql IMMUTABLE AS
$$ SELECT ARRAY[ROW(op, 0, code, detail, NULL)::answer] $$;

-- Nanoseconds since 1970 on the database's clock: one time for all nodes.
CREATE FUNCTION time_now() RETURNS bigint LANGUAGE sql VOLATILE AS
$$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000 $$;

-- A folder in which names can be made: 0, or the code of the refusal.
CREATE FUNCTION folder_code(f node) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE WHEN (f).id IS NULL THEN 2 WHEN (f).kind <> 2 THEN 4 WHEN (f).nlink = 0 THEN 2 ELSE 0 END $$;

-- Objects that a content needs belong to no other content: registers them.
CREATE FUNCTION refer_objects(p_node bigint, p_stream bigint, p_version bigint, p_objects bytea[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO object(id, node, stream, first, last) SELECT o, p_node, p_stream, p_version, NULL
      FROM unnest(p_objects) AS o ORDER BY o
      ON CONFLICT(id) DO UPDATE SET last = NULL;
    DELETE FROM garbage WHERE id = ANY(p_objects);
END $$;

-- Deletes a node without names, with everything that belongs to it; its objects become garbage.
CREATE FUNCTION purge_node(p_id bigint, p_now bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE n node;
BEGIN
    DELETE FROM node WHERE id = p_id RETURNING * INTO n;
    IF n.nlink = 0 OR n.id IS NULL THEN
        DELETE FROM orphan WHERE node = p_id;
    END IF;
    IF n.id IS NULL OR n.version > 0 OR n.streams > 0 THEN
        DELETE FROM content WHERE node = p_id;
        WITH gone AS (DELETE FROM object WHERE node = p_id RETURNING id)
        INSERT INTO garbage(id, at) SELECT id, p_now / 1000000000 FROM gone ON CONFLICT DO NOTHING;
    END IF;
    IF n.id IS NULL OR n.ea_size > 0 THEN
        DELETE FROM ea WHERE node = p_id;
    END IF;
    IF n.id IS NULL OR n.streams > 0 THEN
        DELETE FROM stream WHERE node = p_id;
    END IF;
END $$;

CREATE FUNCTION put_eas(p_node bigint, p_eas jsonb, p_blobs bytea[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE e jsonb; v bytea;
BEGIN
    FOR e IN SELECT * FROM jsonb_array_elements(p_eas) LOOP
        v := p_blobs[(e->>'v')::int];
        IF length(v) = 0 THEN
            DELETE FROM ea WHERE node = p_node AND fold = e->>'f';
        ELSE
            INSERT INTO ea(node, id, fold, name, value) VALUES (p_node, nextval('ids'), e->>'f', e->>'n', v)
              ON CONFLICT(node, fold) DO UPDATE SET value = excluded.value;
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION op_create(i bigint, o jsonb, p_blobs bytea[], p_now bigint) RETURNS answer[] LANGUAGE plpgsql AS $$
DECLARE
    f node; n node; e entry; code bigint; before bigint; wanted text := o->>'n';
    c jsonb := o->'content'; objects bytea[];
BEGIN
    SELECT * INTO f FROM node WHERE id = (o->>'p')::bigint FOR NO KEY UPDATE;
    code := folder_code(f);
    IF code <> 0 THEN RETURN refuse(i, code, (o->>'p')::bigint); END IF;
    SELECT * INTO e FROM entry WHERE parent = f.id AND fold = o->>'f' AND ((o->>'ci')::boolean OR name = wanted)
      ORDER BY name = wanted DESC, cookie LIMIT 1;
    IF e.node IS NOT NULL THEN
        IF o ? 'verifier' THEN
            SELECT * INTO n FROM node WHERE id = e.node;
            IF n.verifier = p_blobs[(o->>'verifier')::int] THEN
                RETURN ARRAY[ROW(i, 0, 0, 1, n)::answer, ROW(i, 1, 0, f.change_id, f)::answer];
            END IF;
        END IF;
        RETURN refuse(i, 3, 0);
    END IF;
    IF c ? 'objects' THEN
        SELECT array_agg(p_blobs[x::int]) INTO objects FROM jsonb_array_elements_text(c->'objects') AS x;
        IF EXISTS(SELECT 1 FROM object WHERE id = ANY(objects)) THEN RETURN refuse(i, 13, 0); END IF;
    END IF;
    INSERT INTO node(id, kind, mode, uid, gid, nlink, size, allocated, atime, mtime, ctime, btime, dos, change_id, version,
                     dev_major, dev_minor, ea_size, parent, acl, verifier, target)
    VALUES (nextval('ids'), (o->>'kind')::bigint, (o->>'mode')::bigint, (o->>'uid')::bigint, (o->>'gid')::bigint,
            CASE o->>'kind' WHEN '2' THEN 2 ELSE 1 END, (o->>'size')::bigint, coalesce((c->>'allocated')::bigint, 0),
            coalesce((o->>'atime')::bigint, p_now), coalesce((o->>'mtime')::bigint, p_now), p_now,
            coalesce((o->>'btime')::bigint, p_now), (o->>'dos')::bigint, 1, CASE WHEN c IS NULL THEN 0 ELSE 1 END,
            (o->>'major')::bigint, (o->>'minor')::bigint, (o->>'ea_size')::bigint, f.id, (o->>'acl')::bigint,
            p_blobs[(o->>'verifier')::int], p_blobs[(o->>'target')::int])
    RETURNING * INTO n;
    INSERT INTO entry(parent, cookie, name, fold, node) VALUES (f.id, nextval('ids'), wanted, o->>'f', n.id);
    IF o ? 'eas' THEN
        PERFORM put_eas(n.id, o->'eas', p_blobs);
    END IF;
    IF c IS NOT NULL THEN
        INSERT INTO content(node, stream, version, size, at, author, protocol, session, op, objects, body)
        VALUES (n.id, 0, 1, n.size, p_now, c->>'author', c->>'protocol', '\x00', '\x00',
                coalesce(cardinality(objects), 0), p_blobs[(c->>'body')::int]);
        IF objects IS NOT NULL THEN
            PERFORM refer_objects(n.id, 0, 1, objects);
        END IF;
    END IF;
    before := f.change_id;
    UPDATE node SET mtime = p_now, ctime = p_now, change_id = change_id + 1,
        nlink = nlink + CASE n.kind WHEN 2 THEN 1 ELSE 0 END WHERE id = f.id RETURNING * INTO f;
    RETURN ARRAY[ROW(i, 0, 0, 0, n)::answer, ROW(i, 1, 0, before, f)::answer];
END $$;

CREATE FUNCTION op_link(i bigint, o jsonb, p_now bigint) RETURNS answer[] LANGUAGE plpgsql AS $$
DECLARE f node; n node; code bigint; before bigint; wanted text := o->>'n';
BEGIN
    SELECT * INTO f FROM node WHERE id = (o->>'p')::bigint FOR NO KEY UPDATE;
    code := folder_code(f);
    IF code <> 0 THEN RETURN refuse(i, code, (o->>'p')::bigint); END IF;
    SELECT * INTO n FROM node WHERE id = (o->>'id')::bigint FOR NO KEY UPDATE;
    IF n.id IS NULL THEN RETURN refuse(i, 2, (o->>'id')::bigint); END IF;
    IF n.kind = 2 THEN RETURN refuse(i, 8, 0); END IF;
    IF EXISTS(SELECT 1 FROM entry WHERE parent = f.id AND fold = o->>'f' AND ((o->>'ci')::boolean OR name = wanted)) THEN
        RETURN refuse(i, 3, 0);
    END IF;
    IF n.nlink >= (o->>'max')::bigint THEN RETURN refuse(i, 9, 0); END IF;
    IF n.nlink = 0 THEN
        -- An orphan gets a name again.
        DELETE FROM orphan WHERE node = n.id;
    END IF;
    INSERT INTO entry(parent, cookie, name, fold, node) VALUES (f.id, nextval('ids'), wanted, o->>'f', n.id);
    UPDATE node SET nlink = nlink + 1, parent = coalesce(parent, f.id), ctime = p_now, change_id = change_id + 1
      WHERE id = n.id RETURNING * INTO n;
    before := f.change_id;
    UPDATE node SET mtime = p_now, ctime = p_now, change_id = change_id + 1 WHERE id = f.id RETURNING * INTO f;
    RETURN ARRAY[ROW(i, 0, 0, 0, n)::answer, ROW(i, 1, 0, before, f)::answer];
END $$;

-- Removes an entry and what depends on it, the folder's own attributes aside. Answers with role 0, or a refusal.
CREATE FUNCTION take_name(i bigint, e entry, p_orphan boolean, p_member integer, p_epoch bigint, p_now bigint)
RETURNS answer LANGUAGE plpgsql AS $$
DECLARE n node;
BEGIN
    SELECT * INTO n FROM node WHERE id = e.node FOR NO KEY UPDATE;
    IF n.id IS NULL THEN RETURN ROW(i, 0, 2, e.node, NULL)::answer; END IF;
    IF n.kind = 2 AND EXISTS(SELECT 1 FROM entry WHERE parent = n.id) THEN
        RETURN ROW(i, 0, 6, 0, NULL)::answer;
    END IF;
    DELETE FROM entry WHERE parent = e.parent AND cookie = e.cookie;
    n.nlink := CASE n.kind WHEN 2 THEN 0 ELSE greatest(n.nlink - 1, 0) END;
    n.ctime := p_now;
    n.change_id := n.change_id + 1;
    n.parent := CASE WHEN n.nlink > 0 THEN (SELECT x.parent FROM entry x WHERE x.node = n.id ORDER BY x.cookie LIMIT 1) END;
    IF n.nlink = 0 AND NOT p_orphan THEN
        PERFORM purge_node(n.id, p_now);
        RETURN ROW(i, 0, 0, 0, n)::answer;
    END IF;
    UPDATE node SET nlink = n.nlink, ctime = n.ctime, change_id = n.change_id, parent = n.parent WHERE id = n.id;
    IF n.nlink = 0 THEN
        INSERT INTO orphan(node, member, epoch) VALUES (n.id, p_member, p_epoch) ON CONFLICT DO NOTHING;
        RETURN ROW(i, 0, 0, 1, n)::answer;
    END IF;
    RETURN ROW(i, 0, 0, 0, n)::answer;
END $$;

CREATE FUNCTION op_unlink(i bigint, o jsonb, p_member integer, p_epoch bigint, p_now bigint) RETURNS answer[]
LANGUAGE plpgsql AS $$
DECLARE f node; e entry; a answer; code bigint; before bigint;
BEGIN
    SELECT * INTO f FROM node WHERE id = (o->>'p')::bigint FOR NO KEY UPDATE;
    code := folder_code(f);
    IF code <> 0 THEN RETURN refuse(i, code, (o->>'p')::bigint); END IF;
    SELECT * INTO e FROM entry WHERE parent = f.id AND fold = o->>'f' AND name = o->>'n';
    IF e.node IS NULL THEN RETURN refuse(i, 1, 0); END IF;
    IF e.node <> (o->>'id')::bigint THEN RETURN refuse(i, 2, (o->>'id')::bigint); END IF;
    a := take_name(i, e, (o->>'orphan')::boolean, p_member, p_epoch, p_now);
    IF a.code <> 0 THEN RETURN ARRAY[a]; END IF;
    before := f.change_id;
    UPDATE node SET mtime = p_now, ctime = p_now, change_id = change_id + 1,
        nlink = greatest(nlink - CASE (a.node).kind WHEN 2 THEN 1 ELSE 0 END, 0) WHERE id = f.id RETURNING * INTO f;
    RETURN ARRAY[a, ROW(i, 1, 0, before, f)::answer];
END $$;

CREATE FUNCTION op_release(i bigint, o jsonb, p_now bigint) RETURNS answer[] LANGUAGE plpgsql AS $$
BEGIN
    -- The node first: who gives an orphan a name again holds its row.
    PERFORM 1 FROM node WHERE id = (o->>'id')::bigint FOR NO KEY UPDATE;
    IF EXISTS(SELECT 1 FROM orphan WHERE node = (o->>'id')::bigint) THEN
        PERFORM purge_node((o->>'id')::bigint, p_now);
    END IF;
    RETURN refuse(i, 0, 0);
END $$;

-- Whether a folder is another one or above it. The caller holds the lock on moves of folders.
CREATE FUNCTION is_inside(p_folder bigint, p_destination bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE at bigint := p_destination; depth integer := 0;
BEGIN
    WHILE at IS NOT NULL AND depth < 100000 LOOP
        IF at = p_folder THEN RETURN true; END IF;
        SELECT parent INTO at FROM node WHERE id = at;
        depth := depth + 1;
    END LOOP;
    RETURN depth >= 100000;
END $$;

CREATE FUNCTION op_rename(i bigint, o jsonb, p_member integer, p_epoch bigint, p_now bigint) RETURNS answer[]
LANGUAGE plpgsql AS $$
DECLARE
    old_f node; new_f node; n node; t node; e entry; target entry; a answer; code bigint;
    old_before bigint; new_before bigint; same boolean; is_folder bigint; lost bigint := 0; wanted text := o->>'n2';
BEGIN
    -- In the order of their numbers, as everywhere.
    PERFORM 1 FROM node WHERE id IN ((o->>'p')::bigint, (o->>'p2')::bigint) ORDER BY id FOR NO KEY UPDATE;
    SELECT * INTO old_f FROM node WHERE id = (o->>'p')::bigint;
    code := folder_code(old_f);
    IF code <> 0 THEN RETURN refuse(i, code, (o->>'p')::bigint); END IF;
    SELECT * INTO e FROM entry WHERE parent = old_f.id AND fold = o->>'f' AND name = o->>'n';
    IF e.node IS NULL THEN RETURN refuse(i, 1, 0); END IF;
    IF e.node <> (o->>'id')::bigint THEN RETURN refuse(i, 2, (o->>'id')::bigint); END IF;
    SELECT * INTO new_f FROM node WHERE id = (o->>'p2')::bigint;
    code := folder_code(new_f);
    IF code <> 0 THEN RETURN refuse(i, code, (o->>'p2')::bigint); END IF;
    SELECT * INTO n FROM node WHERE id = e.node FOR NO KEY UPDATE;
    IF n.id IS NULL THEN RETURN refuse(i, 2, e.node); END IF;
    same := old_f.id = new_f.id;
    IF n.kind = 2 THEN
        IF NOT same THEN
            -- One move of a folder between folders at a time: two could make a loop together.
            PERFORM pg_advisory_xact_lock(1936487273, 1);
        END IF;
        IF is_inside(n.id, new_f.id) THEN RETURN refuse(i, 7, 0); END IF;
    END IF;
    SELECT * INTO target FROM entry WHERE parent = new_f.id AND fold = o->>'f2' AND cookie <> e.cookie
      AND ((o->>'ci')::boolean OR name = wanted) ORDER BY name = wanted DESC, cookie LIMIT 1;
    IF target.node = n.id OR (same AND e.name = wanted) THEN
        RETURN ARRAY[ROW(i, 0, 0, 1, n)::answer, ROW(i, 1, 0, old_f.change_id, old_f)::answer,
                     ROW(i, 2, 0, new_f.change_id, new_f)::answer];
    END IF;
    IF target.node IS NOT NULL THEN
        IF NOT o ? 'replace' THEN RETURN refuse(i, 3, 0); END IF;
        IF target.node <> (o->>'replace')::bigint THEN RETURN refuse(i, 2, (o->>'replace')::bigint); END IF;
        SELECT * INTO t FROM node WHERE id = target.node FOR NO KEY UPDATE;
        IF t.id IS NULL THEN RETURN refuse(i, 2, target.node); END IF;
        IF n.kind = 2 AND t.kind <> 2 THEN RETURN refuse(i, 4, 0); END IF;
        IF n.kind <> 2 AND t.kind = 2 THEN RETURN refuse(i, 5, 0); END IF;
        a := take_name(i, target, (o->>'orphan')::boolean, p_member, p_epoch, p_now);
        IF a.code <> 0 THEN RETURN ARRAY[a]; END IF;
        a.role := 3;
        lost := CASE t.kind WHEN 2 THEN 1 ELSE 0 END;
    END IF;
    is_folder := CASE n.kind WHEN 2 THEN 1 ELSE 0 END;
    old_before := old_f.change_id;
    new_before := new_f.change_id;
    IF same THEN
        UPDATE entry SET name = wanted, fold = o->>'f2' WHERE parent = e.parent AND cookie = e.cookie;
        UPDATE node SET mtime = p_now, ctime = p_now, change_id = change_id + 1, nlink = greatest(nlink - lost, 0)
          WHERE id = old_f.id RETURNING * INTO old_f;
        new_f := old_f;
    ELSE
        DELETE FROM entry WHERE parent = e.parent AND cookie = e.cookie;
        INSERT INTO entry(parent, cookie, name, fold, node) VALUES (new_f.id, nextval('ids'), wanted, o->>'f2', n.id);
        UPDATE node SET mtime = p_now, ctime = p_now, change_id = change_id + 1, nlink = greatest(nlink - is_folder, 0)
          WHERE id = old_f.id RETURNING * INTO old_f;
        UPDATE node SET mtime = p_now, ctime = p_now, change_id = change_id + 1,
            nlink = greatest(nlink + is_folder - lost, 0) WHERE id = new_f.id RETURNING * INTO new_f;
    END IF;
    UPDATE node SET ctime = p_now, change_id = change_id + 1,
        parent = (SELECT x.parent FROM entry x WHERE x.node = n.id ORDER BY x.cookie LIMIT 1)
      WHERE id = n.id RETURNING * INTO n;
    RETURN ARRAY[ROW(i, 0, 0, 0, n)::answer, ROW(i, 1, 0, old_before, old_f)::answer,
                 ROW(i, 2, 0, new_before, new_f)::answer]
        || CASE WHEN a.role = 3 THEN ARRAY[a] ELSE '{}'::answer[] END;
END $$;

-- Attributes, and with 'set_acl' the access control list, and with 'eas' extended attributes.
CREATE FUNCTION op_set(i bigint, o jsonb, p_blobs bytea[], p_now bigint) RETURNS answer[] LANGUAGE plpgsql AS $$
DECLARE n node; total bigint;
BEGIN
    SELECT * INTO n FROM node WHERE id = (o->>'id')::bigint FOR NO KEY UPDATE;
    IF n.id IS NULL THEN RETURN refuse(i, 2, (o->>'id')::bigint); END IF;
    IF n.ctime <> (o->>'guard')::bigint THEN RETURN refuse(i, 11, 0); END IF;
    IF o ? 'eas' THEN
        BEGIN
            PERFORM put_eas(n.id, o->'eas', p_blobs);
            -- MS-FSCC 2.4.12: the size as a packed list, 4 bytes for the whole and 5 for each entry beside name and value.
            SELECT coalesce(4 + sum(5 + octet_length(name) + length(value)), 0) INTO total FROM ea WHERE node = n.id;
            IF total > (o->>'max')::bigint THEN RAISE SQLSTATE 'SLEAS'; END IF;
        EXCEPTION WHEN SQLSTATE 'SLEAS' THEN
            RETURN refuse(i, 9, 0);
        END;
    END IF;
    UPDATE node SET
        mode = coalesce((o->>'mode')::bigint & 4095, mode), uid = coalesce((o->>'uid')::bigint, uid),
        gid = coalesce((o->>'gid')::bigint, gid), atime = coalesce((o->>'atime')::bigint, atime),
        mtime = coalesce((o->>'mtime')::bigint, mtime), btime = coalesce((o->>'btime')::bigint, btime),
        dos = coalesce((o->>'dos')::bigint, dos), ctime = coalesce((o->>'ctime')::bigint, p_now),
        change_id = change_id + 1, ea_size = coalesce(total, ea_size),
        acl = CASE WHEN o ? 'set_acl' THEN (o->>'set_acl')::bigint ELSE acl END
      WHERE id = n.id RETURNING * INTO n;
    RETURN ARRAY[ROW(i, 0, 0, 0, n)::answer];
END $$;

-- Named streams: 'do' is create, rename or delete.
CREATE FUNCTION op_stream(i bigint, o jsonb, p_now bigint) RETURNS answer[] LANGUAGE plpgsql AS $$
DECLARE n node; s stream; other stream; number bigint := (o->>'stream')::bigint; dropped bigint;
BEGIN
    SELECT * INTO n FROM node WHERE id = (o->>'id')::bigint FOR NO KEY UPDATE;
    IF n.id IS NULL AND o->>'do' = 'create' THEN RETURN refuse(i, 2, (o->>'id')::bigint); END IF;
    IF o->>'do' = 'create' THEN
        IF EXISTS(SELECT 1 FROM stream WHERE node = n.id AND fold = o->>'f') THEN RETURN refuse(i, 3, 0); END IF;
        IF (SELECT count(*) FROM stream WHERE node = n.id) >= (o->>'max')::bigint THEN RETURN refuse(i, 9, 0); END IF;
        number := n.streams + 1;
        INSERT INTO stream(node, stream, name, fold, size, allocated) VALUES (n.id, number, o->>'n', o->>'f', 0, 0);
    ELSE
        SELECT * INTO s FROM stream WHERE node = (o->>'id')::bigint AND stream = number;
        IF s.node IS NULL THEN RETURN refuse(i, 1, 0); END IF;
        IF o->>'do' = 'rename' THEN
            SELECT * INTO other FROM stream WHERE node = n.id AND fold = o->>'f';
            IF other.stream <> number THEN
                IF NOT (o->>'replace')::boolean THEN RETURN refuse(i, 3, 0); END IF;
                dropped := other.stream;
            END IF;
        ELSE
            dropped := number;
        END IF;
        IF dropped IS NOT NULL THEN
            DELETE FROM stream WHERE node = n.id AND stream = dropped;
            DELETE FROM content WHERE node = n.id AND stream = dropped;
            WITH gone AS (DELETE FROM object WHERE node = n.id AND stream = dropped RETURNING id)
            INSERT INTO garbage(id, at) SELECT id, p_now / 1000000000 FROM gone ON CONFLICT DO NOTHING;
        END IF;
        IF o->>'do' = 'rename' THEN
            UPDATE stream SET name = o->>'n', fold = o->>'f' WHERE node = n.id AND stream = number;
        END IF;
    END IF;
    UPDATE node SET ctime = p_now, change_id = change_id + 1, streams = greatest(streams, number)
      WHERE id = n.id RETURNING * INTO n;
    RETURN ARRAY[ROW(i, 0, 0, number, n)::answer];
END $$;

-- Records, settings, counters.
CREATE FUNCTION op_record(i bigint, o jsonb, p_blobs bytea[]) RETURNS answer[] LANGUAGE plpgsql AS $$
DECLARE u record; number bigint := (o->>'id')::bigint; what text := o->>'kind';
BEGIN
    -- One change of a kind at a time: some values are unique over all bodies.
    PERFORM pg_advisory_xact_lock(1936487273, 2);
    IF o->>'do' = 'remove' THEN
        DELETE FROM record AS r WHERE r.kind = what AND (r.id = number OR r.name = o->>'name');
        IF NOT FOUND THEN RETURN refuse(i, 1, 0); END IF;
    ELSE
        IF EXISTS(SELECT 1 FROM record AS r WHERE r.kind = what AND r.name = o->>'name' AND r.id <> number) THEN
            RETURN refuse(i, 3, 0);
        END IF;
        FOR u IN SELECT key, value FROM jsonb_each_text(o->'unique') LOOP
            IF EXISTS(SELECT 1 FROM record AS r WHERE r.kind = what AND r.id <> number AND r.body::json->>u.key = u.value) THEN
                RETURN refuse(i, 3, 0);
            END IF;
        END LOOP;
        INSERT INTO record(kind, id, name, body) VALUES (what, number, o->>'name', o->>'body')
          ON CONFLICT(kind, id) DO UPDATE SET name = excluded.name, body = excluded.body;
    END IF;
    -- Serialises commits while it waits, which is fine for what an administrator does now and then.
    PERFORM pg_notify('sluice_records', '');
    RETURN refuse(i, 0, 0);
END $$;

CREATE FUNCTION op_counter(i bigint, o jsonb) RETURNS answer[] LANGUAGE plpgsql AS $$
DECLARE number bigint;
BEGIN
    INSERT INTO counter AS c (key, value) VALUES (o->>'key', 1) ON CONFLICT(key) DO UPDATE SET value = c.value + 1
      RETURNING value INTO number;
    RETURN refuse(i, 0, number);
END $$;

CREATE FUNCTION op_setting(i bigint, o jsonb, p_blobs bytea[]) RETURNS answer[] LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO setting AS s (key, value) VALUES (o->>'key', p_blobs[(o->>'value')::int])
      ON CONFLICT(key) DO UPDATE SET value = CASE WHEN (o->>'keep')::boolean THEN s.value ELSE excluded.value END;
    RETURN refuse(i, 0, 0);
END $$;

-- Number of an access control list, stored if it is new.
CREATE FUNCTION op_acl(i bigint, o jsonb) RETURNS answer[] LANGUAGE plpgsql AS $$
DECLARE number bigint; wanted text := o->>'body'; wanted_hash bytea := sha256(convert_to(o->>'body', 'UTF8'));
BEGIN
    SELECT id INTO number FROM acl WHERE hash = wanted_hash;
    IF number IS NULL THEN
        INSERT INTO acl AS a (hash, body) VALUES (wanted_hash, wanted) ON CONFLICT(hash) DO UPDATE SET body = a.body
          RETURNING id INTO number;
    END IF;
    RETURN refuse(i, 0, number);
END $$;

-- Garbage: 'do' is forget (the objects are deleted) or keep (still read somewhere: given up just now).
CREATE FUNCTION op_garbage(i bigint, o jsonb, p_blobs bytea[], p_now bigint) RETURNS answer[] LANGUAGE plpgsql AS $$
BEGIN
    IF o->>'do' = 'forget' THEN
        DELETE FROM garbage WHERE id IN (SELECT p_blobs[x::int] FROM jsonb_array_elements_text(o->'objects') AS x);
    ELSE
        UPDATE garbage SET at = p_now / 1000000000 WHERE id IN (
            SELECT id FROM garbage WHERE id IN (SELECT p_blobs[x::int] FROM jsonb_array_elements_text(o->'objects') AS x)
            ORDER BY id FOR UPDATE);
    END IF;
    RETURN refuse(i, 0, 0);
END $$;

-- Access times; those of nodes that someone else is changing are dropped.
CREATE FUNCTION op_touch(i bigint, o jsonb) RETURNS answer[] LANGUAGE plpgsql AS $$
BEGIN
    UPDATE node SET atime = w.value::bigint FROM jsonb_each_text(o->'times') AS w
      WHERE node.id = w.key::bigint AND node.id IN (
        SELECT n.id FROM node n WHERE n.id IN (SELECT k::bigint FROM jsonb_object_keys(o->'times') AS k)
        FOR NO KEY UPDATE SKIP LOCKED);
    RETURN refuse(i, 0, 0);
END $$;

-- The writer is a member still, and the batch is not one that was carried out already. NULL: go on; otherwise the answers.
CREATE FUNCTION begin_batch(p_member integer, p_epoch bigint, p_lane integer, p_batch bigint) RETURNS answer[]
LANGUAGE plpgsql AS $$
DECLARE l lane;
BEGIN
    -- Waits for the same batch if it is still being carried out on a connection that its sender has lost.
    SELECT * INTO l FROM lane AS x WHERE x.member = p_member AND x.epoch = p_epoch AND x.lane = p_lane FOR UPDATE;
    IF l.batch IS NULL THEN
        -- The first batch of the lane makes the row, for which its repetition waits in the same way.
        INSERT INTO lane AS x (member, epoch, lane, batch, answers) VALUES (p_member, p_epoch, p_lane, 0, '{}')
          ON CONFLICT DO NOTHING;
        SELECT * INTO l FROM lane AS x WHERE x.member = p_member AND x.epoch = p_epoch AND x.lane = p_lane FOR UPDATE;
    END IF;
    IF l.batch >= p_batch THEN RETURN l.answers; END IF;
    PERFORM 1 FROM node_session WHERE member = p_member AND epoch = p_epoch FOR KEY SHARE;
    IF NOT FOUND THEN RETURN refuse(-1, 12, 0); END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION end_batch(p_member integer, p_epoch bigint, p_lane integer, p_batch bigint, p_answers answer[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE lane AS x SET batch = p_batch, answers = p_answers
      WHERE x.member = p_member AND x.epoch = p_epoch AND x.lane = p_lane;
END $$;
