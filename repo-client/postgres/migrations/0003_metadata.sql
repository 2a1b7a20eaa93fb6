-- Numbers of nodes and of names; they grow and are never given twice. The first ones are reserved.
CREATE SEQUENCE ids START 16;

-- Everything that has an id: documents, folders, links, special files.
CREATE TABLE node(
    id bigint PRIMARY KEY, kind bigint NOT NULL, mode bigint NOT NULL, uid bigint NOT NULL, gid bigint NOT NULL,
    nlink bigint NOT NULL, size bigint NOT NULL, allocated bigint NOT NULL,
    atime bigint NOT NULL, mtime bigint NOT NULL, ctime bigint NOT NULL, btime bigint NOT NULL,
    dos bigint NOT NULL, change_id bigint NOT NULL, version bigint NOT NULL,
    dev_major bigint NOT NULL, dev_minor bigint NOT NULL, ea_size bigint NOT NULL,
    parent bigint,                       -- one of the folders that name it; NULL for the root and for orphans
    acl bigint,                          -- acl.id
    streams bigint NOT NULL DEFAULT 0,   -- highest stream number given so far
    fence bigint NOT NULL DEFAULT 0,     -- newest fencing token that committed here, or was set by force
    verifier bytea,                      -- of the NFS exclusive create that made it
    target bytea                         -- of a symbolic link, UTF-8
) WITH (fillfactor = 80);

-- Names. The cookie grows within a folder, so that (parent, cookie) is the listing order.
CREATE TABLE entry(
    parent bigint NOT NULL, cookie bigint NOT NULL,
    name text COLLATE "C" NOT NULL, fold text COLLATE "C" NOT NULL, node bigint NOT NULL,
    PRIMARY KEY(parent, cookie)
);
CREATE UNIQUE INDEX entry_name ON entry(parent, fold, name);
CREATE INDEX entry_node ON entry(node);

-- Content versions of documents (stream 0) and of named streams (current one only). The highest version is the current one.
CREATE TABLE content(
    node bigint NOT NULL, stream bigint NOT NULL, version bigint NOT NULL,
    size bigint NOT NULL, at bigint NOT NULL, author text NOT NULL, protocol text NOT NULL,
    session bytea NOT NULL, op bytea NOT NULL,
    objects bigint NOT NULL,             -- how many objects the body refers to
    body bytea NOT NULL,                 -- encoded manifest
    PRIMARY KEY(node, stream, version)
);
ALTER TABLE content ALTER COLUMN body SET STORAGE EXTERNAL;

-- Objects of the content store: needed by the versions first..last of one content (last NULL: by the current one, too).
CREATE TABLE object(
    id bytea PRIMARY KEY, node bigint NOT NULL, stream bigint NOT NULL, first bigint NOT NULL, last bigint
);
CREATE INDEX object_content ON object(node, stream);

-- Objects that nothing needs any more, to be deleted from the store.
CREATE TABLE garbage(id bytea PRIMARY KEY, at bigint NOT NULL);
CREATE INDEX garbage_at ON garbage(at);

CREATE TABLE stream(
    node bigint NOT NULL, stream bigint NOT NULL,
    name text COLLATE "C" NOT NULL, fold text COLLATE "C" NOT NULL,
    size bigint NOT NULL, allocated bigint NOT NULL,
    PRIMARY KEY(node, stream)
);
CREATE UNIQUE INDEX stream_name ON stream(node, fold);

CREATE TABLE ea(
    node bigint NOT NULL, id bigint NOT NULL,
    fold text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, value bytea NOT NULL,
    PRIMARY KEY(node, fold)
);

-- Access control lists, each stored once and never changed.
CREATE TABLE acl(
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, hash bytea NOT NULL UNIQUE, body text NOT NULL
);

-- Nodes without a name that are still open; deleted by release, or when the life of the node that unlinked them is over.
CREATE TABLE orphan(node bigint PRIMARY KEY, member integer NOT NULL, epoch bigint NOT NULL);

-- Users, groups, shares, policy rules: one JSON body each.
CREATE TABLE record(
    kind text COLLATE "C" NOT NULL, id bigint NOT NULL, name text COLLATE "C" NOT NULL, body text NOT NULL,
    PRIMARY KEY(kind, id)
);
CREATE UNIQUE INDEX record_name ON record(kind, name);

CREATE TABLE setting(key text COLLATE "C" PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE counter(key text COLLATE "C" PRIMARY KEY, value bigint NOT NULL);

-- What a batch of changes answers: for each change (op) a row of role 0, and further ones of the other nodes concerned.
CREATE TYPE answer AS (op bigint, role bigint, code bigint, detail bigint, node node);

-- The last batch of each writing connection of a node's life, with its answers: a batch that is sent again after its
-- connection was lost is found here and not carried out twice.
CREATE TABLE lane(
    member integer NOT NULL, epoch bigint NOT NULL, lane integer NOT NULL,
    batch bigint NOT NULL, answers answer[] NOT NULL,
    PRIMARY KEY(member, epoch, lane)
) WITH (fillfactor = 50);
ALTER TABLE lane ALTER COLUMN answers SET STORAGE EXTERNAL;

-- Calls of clients whose changes were carried out lately: a client that hears no answer sends its call again, maybe to another
-- node.
CREATE TABLE client_call(id bytea PRIMARY KEY, at bigint NOT NULL);
CREATE INDEX client_call_at ON client_call(at);

-- The root folder.
INSERT INTO node(id, kind, mode, uid, gid, nlink, size, allocated, atime, mtime, ctime, btime, dos, change_id, version,
                 dev_major, dev_minor, ea_size)
SELECT 1, 2, 493, 0, 0, 2, 0, 0, t, t, t, t, 0, 1, 0, 0, 0, 0
FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000 AS t) AS now;
