//! sluice-nfs-wire
