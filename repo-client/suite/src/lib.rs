//! sluice-repo-suite
