-- Documents on which NFS clients may have locks: kept for them after the next start.
CREATE TABLE IF NOT EXISTS nfs_locked(document INTEGER PRIMARY KEY) STRICT;
