//! Small wire-level clients: what a test or benchmark needs and real programs can't do (hold a share mode, pipeline, send
//! one procedure by itself). Blocking, one connection each. They speak the protocols on their own and share no code with the heads.

pub mod ftp;
pub mod nfs3;
pub mod smb;
