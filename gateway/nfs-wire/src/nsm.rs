//! The Network Status Monitor (X/Open XNFS, chapter 11): a host that has restarted tells those with whom it shared locks.

/// Program number.
pub const PROGRAM: u32 = 100_024;
/// Version.
pub const VERSION: u32 = 1;
/// Does nothing.
pub const PROC_NULL: u32 = 0;
/// The caller has restarted; the arguments are those of FREE_ALL.
pub const PROC_NOTIFY: u32 = 6;

pub use crate::nlm::NotifyArgs;
