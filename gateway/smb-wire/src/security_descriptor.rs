//! Security descriptors, SIDs and ACLs (MS-DTYP 2.4).
