//! How SQLite's errors become the repository's.

use rusqlite::ErrorCode;
use sluice_repo::RepoError;

/// Maps a driver error; `QueryReturnedNoRows` is `NotFound`.
pub(crate) fn db(error: rusqlite::Error) -> RepoError {
    match &error {
        rusqlite::Error::QueryReturnedNoRows => RepoError::NotFound,
        rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DiskFull => RepoError::NoSpace,
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen => {
                RepoError::ReadOnly(format!("database: {error}"))
            }
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                RepoError::Corrupt(format!("database: {error}"))
            }
            ErrorCode::TooBig => RepoError::TooLarge,
            _ => RepoError::Unavailable(format!("database: {error}")),
        },
        _ => RepoError::Unavailable(format!("database: {error}")),
    }
}

/// A value in the database that this program did not write.
pub(crate) fn corrupt(what: &str) -> RepoError {
    RepoError::Corrupt(format!("database: {what}"))
}
