-- Settings of the database as a whole, and numbers that only grow.
CREATE TABLE cluster_state(key text COLLATE "C" PRIMARY KEY, value bigint NOT NULL);

-- The nodes of the cluster, one row for each life of a node. A row that is gone is a node that is fenced: every change
-- takes FOR KEY SHARE on its writer's row, so that a fence waits for changes under way and no change comes after it.
-- Member 0 is a program that has the whole repository to itself (a command on a stopped cluster); nodes may join only when
-- its lease has run out, and it only when theirs have.
CREATE TABLE node_session(
    member integer NOT NULL, epoch bigint NOT NULL,
    name text NOT NULL, addr text NOT NULL, version text NOT NULL,
    -- How many steps of the schema its program knows: what would shut it out is not done while it lives.
    schema integer NOT NULL DEFAULT 0,
    state smallint NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY(member, epoch)
) WITH (fillfactor = 50);

-- Who coordinates the locks of a shard. The epoch is in the key: taking a shard over conflicts with commits under way
-- that were granted under the old epoch.
CREATE TABLE lock_shard(
    shard integer NOT NULL, epoch bigint NOT NULL, owner integer, owner_epoch bigint,
    PRIMARY KEY(shard, epoch)
) WITH (fillfactor = 50);
INSERT INTO lock_shard(shard, epoch) SELECT n, 0 FROM generate_series(0, 4095) AS n;
