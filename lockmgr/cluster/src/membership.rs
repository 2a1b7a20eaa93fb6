//! Who is a member, in which epoch, and which shards it owns.
