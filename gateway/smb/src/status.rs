//! File layer outcomes as NTSTATUS: one exhaustive match.
