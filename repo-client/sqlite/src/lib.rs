//! sluice-repo-sqlite
