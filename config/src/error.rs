//! What can be wrong with settings: always a place, a reason and a remedy in one sentence.

/// A setting that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{file}: {reason}; name an existing configuration file with --config")]
    Unreadable {
        /// Which file.
        file: String,
        /// The operating system's words.
        reason: String,
    },
    /// A line of the file is wrong.
    #[error("{file}:{line}: {reason}; `sluice config example` shows every key")]
    Line {
        /// Which file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// An environment override is wrong.
    #[error(
        "environment variable {name}: {reason}; `sluice config example` shows every key as SLUICE_SECTION__KEY"
    )]
    Environment {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Settings that are fine one by one do not fit together.
    #[error("{place}: {reason}")]
    Combination {
        /// File (or "defaults") and key.
        place: String,
        /// What is wrong and the remedy.
        reason: String,
    },
}
