//! The token machine: who may decide about a document now, as a plain state machine without I/O, clock or tasks.
