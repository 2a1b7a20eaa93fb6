//! Registries for tests: an `EpochRegistry` in memory.
