//! The lock service on several nodes in one process: real services, links in memory, time in the test's hand.

mod chaos;
mod left;
mod net;
mod scenario;
mod stories;
