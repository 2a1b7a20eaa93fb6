//! NDR for DCE/RPC over named pipes (MS-RPCE).
