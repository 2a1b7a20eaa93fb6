-- Everything that has an id: documents, folders, links, special files.
CREATE TABLE node(
    id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
    nlink INTEGER NOT NULL, size INTEGER NOT NULL, allocated INTEGER NOT NULL,
    atime INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, btime INTEGER NOT NULL,
    dos INTEGER NOT NULL, change_id INTEGER NOT NULL, version INTEGER NOT NULL,
    dev_major INTEGER NOT NULL, dev_minor INTEGER NOT NULL, ea_size INTEGER NOT NULL,
    parent INTEGER,                      -- one of the folders that name it; NULL for the root and for orphans
    acl INTEGER,                         -- acl.id
    streams INTEGER NOT NULL DEFAULT 0,  -- highest stream number given so far
    fence INTEGER NOT NULL DEFAULT 0,    -- newest fencing token that committed here
    verifier BLOB,                       -- of the NFS exclusive create that made it
    target TEXT                          -- of a symbolic link
) STRICT;

-- Names. The cookie is unique in the whole table and grows, so that (parent, cookie) is the listing order.
CREATE TABLE entry(
    parent INTEGER NOT NULL, cookie INTEGER NOT NULL, name TEXT NOT NULL, fold TEXT NOT NULL, node INTEGER NOT NULL,
    PRIMARY KEY(parent, cookie)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX entry_name ON entry(parent, fold, name);
CREATE INDEX entry_node ON entry(node);

-- Content versions of documents (stream 0) and of named streams (current one only). The highest version is the current one.
CREATE TABLE content(
    id INTEGER PRIMARY KEY, node INTEGER NOT NULL, stream INTEGER NOT NULL, version INTEGER NOT NULL,
    size INTEGER NOT NULL, at INTEGER NOT NULL, author TEXT NOT NULL, protocol TEXT NOT NULL,
    session BLOB NOT NULL, op BLOB NOT NULL,
    objects INTEGER NOT NULL,            -- how many objects the body refers to
    body BLOB NOT NULL                   -- encoded manifest
) STRICT;
CREATE UNIQUE INDEX content_version ON content(node, stream, version);

-- Objects of the content store: needed by the versions first..last of one content (last NULL: by the current one, too).
CREATE TABLE object(
    id BLOB PRIMARY KEY, node INTEGER NOT NULL, stream INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX object_content ON object(node, stream);

-- Objects that nothing needs any more, to be deleted from the store.
CREATE TABLE garbage(id BLOB PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE stream(
    node INTEGER NOT NULL, stream INTEGER NOT NULL, name TEXT NOT NULL, fold TEXT NOT NULL,
    size INTEGER NOT NULL, allocated INTEGER NOT NULL,
    PRIMARY KEY(node, stream)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX stream_name ON stream(node, fold);

CREATE TABLE ea(id INTEGER PRIMARY KEY, node INTEGER NOT NULL, fold TEXT NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL) STRICT;
CREATE UNIQUE INDEX ea_name ON ea(node, fold);

-- Access control lists, each stored once.
CREATE TABLE acl(id INTEGER PRIMARY KEY, body TEXT NOT NULL UNIQUE) STRICT;

-- Nodes without a name that are still open; deleted by release or at the next start.
CREATE TABLE orphan(node INTEGER PRIMARY KEY) STRICT;

-- Users, groups, shares, policy rules: one JSON body each.
CREATE TABLE record(
    kind TEXT NOT NULL, id INTEGER NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY(kind, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX record_name ON record(kind, name);

CREATE TABLE setting(key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE counter(key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
