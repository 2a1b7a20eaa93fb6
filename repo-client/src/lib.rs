//! sluice-repo
