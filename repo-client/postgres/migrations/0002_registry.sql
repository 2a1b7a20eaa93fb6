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

-- Tokens (rights to decide about a document alone) that were taken away by force and whose holders have not said that they
-- heard of it: each renewal of a lease brings what its node has lost.
CREATE TABLE revocation(
    id bigserial PRIMARY KEY,
    holder integer NOT NULL, holder_epoch bigint NOT NULL,
    document bigint NOT NULL, shard_epoch bigint NOT NULL, number bigint NOT NULL, fence bigint NOT NULL
);
CREATE INDEX revocation_holder ON revocation(holder, holder_epoch, id);
