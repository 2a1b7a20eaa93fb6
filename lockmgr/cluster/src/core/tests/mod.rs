//! Tests of the token machine: machines of several nodes over links in memory, reliable and in order but arbitrarily slow.

mod lists;
mod races;
mod world;
