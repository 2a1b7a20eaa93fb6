//! Small wire-level clients: what tests, the benchmark and `sluice cluster verify` need and real programs can't do (hold a share
//! mode, pipeline, send one procedure by itself). Blocking, one connection each. They speak the protocols on their own and never
//! share code with the heads, so that a mistake there does not hide itself.

pub mod ftp;
pub mod nfs3;
pub mod smb;
