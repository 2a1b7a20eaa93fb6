//! sluice-smb-wire
