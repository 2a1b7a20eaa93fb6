//! DCE/RPC services on named pipes of IPC$.
