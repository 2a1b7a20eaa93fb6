//! sluice-repo-content
