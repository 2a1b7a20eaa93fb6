//! sluice-smb
