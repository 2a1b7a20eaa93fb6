//! How the database's errors become the repository's, and which of them pass.

use sluice_repo::RepoError;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The connection is lost or the server is not (yet) there: connect again and repeat.
    Reconnect,
    /// The transaction stood in another's way and was rolled back: repeat.
    Repeat,
    /// Repeating changes nothing.
    GiveUp,
}

/// Maps a driver error.
pub(crate) fn db(error: sqlx::Error) -> RepoError {
    let code = match &error {
        sqlx::Error::Database(told) => told.code().map(|c| c.into_owned()).unwrap_or_default(),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            return corrupt("a value that can't be read");
        }
        _ => String::new(),
    };
    match code.as_str() {
        "53100" => RepoError::NoSpace,
        "25006" | "42501" => RepoError::ReadOnly(format!("database: {error}")),
        "XX001" | "XX002" => RepoError::Corrupt(format!("database: {error}")),
        "54000" => RepoError::TooLarge,
        "22021" => RepoError::InvalidName,
        _ => RepoError::Unavailable(format!("database: {error}")),
    }
}

/// Whether and how to try again.
pub(crate) fn remedy(error: &sqlx::Error) -> Remedy {
    match error {
        sqlx::Error::Database(told) => match told.code().as_deref() {
            // Serialization failure, deadlock, lock not available.
            Some("40001" | "40P01" | "55P03") => Remedy::Repeat,
            // Connection exceptions, shutdown and start of the server, too many connections.
            Some("57P01" | "57P02" | "57P03" | "53300") => Remedy::Reconnect,
            Some(code) if code.starts_with("08") => Remedy::Reconnect,
            _ => Remedy::GiveUp,
        },
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed => Remedy::Reconnect,
        _ => Remedy::GiveUp,
    }
}

/// A value in the database that this program did not write.
pub(crate) fn corrupt(what: &str) -> RepoError {
    RepoError::Corrupt(format!("database: {what}"))
}
