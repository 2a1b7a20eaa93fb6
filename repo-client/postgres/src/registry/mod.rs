//! The cluster's nodes, shards and mailbox in the database.
