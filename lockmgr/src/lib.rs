//! sluice-lockmgr
