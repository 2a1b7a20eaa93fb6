-- Deputies of coordinators that are silent.

-- A number of each node that only grows: a take-over of a shard whose owner is silent names the one that it relies upon. Not
-- in the node's row: a take-over that waits must not hold up the node's renewals.
CREATE TABLE node_turn(
    member integer NOT NULL, epoch bigint NOT NULL, turn bigint NOT NULL,
    PRIMARY KEY(member, epoch),
    FOREIGN KEY(member, epoch) REFERENCES node_session ON DELETE CASCADE
);
