//! sluice-ftp
