//! The lock service of a cluster: the async runtime around the token machines.
