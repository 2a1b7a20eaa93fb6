-- What makes this database one cluster's: one row.
CREATE TABLE cluster_identity(
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id bytea NOT NULL, secret_proof bytea NOT NULL, schema integer NOT NULL
);

-- 'epoch': the last given to a node; 'members', 'shards': versions of the member list and of the shard map.
INSERT INTO cluster_state(key, value) VALUES ('epoch', 0), ('members', 0), ('shards', 0) ON CONFLICT DO NOTHING;

-- The number of each node name: the same for all its lives.
CREATE TABLE node_name(name text COLLATE "C" PRIMARY KEY, member integer NOT NULL UNIQUE);

-- Lives that are over, for the administrator's eyes.
CREATE TABLE past_member(
    member integer NOT NULL, epoch bigint NOT NULL, name text NOT NULL, addr text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(), why smallint NOT NULL, by_member integer NOT NULL,
    PRIMARY KEY(epoch)
);

-- Messages between nodes that can't reach each other.
CREATE TABLE peer_mailbox(
    id bigserial PRIMARY KEY,
    to_member integer NOT NULL, to_epoch bigint NOT NULL,
    from_member integer NOT NULL, from_epoch bigint NOT NULL,
    message bytea NOT NULL
);
CREATE INDEX peer_mailbox_to ON peer_mailbox(to_member, to_epoch, id);
