//! Where PostgreSQL's programs are.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::ServerError;

/// The folder with `initdb`, `postgres`, `psql`, `pg_ctl` and `pg_basebackup`.
#[derive(Clone, Debug)]
pub(super) struct Programs(PathBuf);

impl Programs {
    /// The newest installed version: in PATH, or where the distributions keep the server's programs.
    pub(super) fn find() -> Result<Programs, ServerError> {
        let in_path = std::env::var_os("PATH")
            .map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
            .unwrap_or_default();
        in_path
            .into_iter()
            .chain(versions("/usr/lib/postgresql", "bin"))
            .chain(versions("/usr", "bin"))
            .chain(versions("/opt/homebrew/opt", "bin"))
            .find(|folder| {
                ["initdb", "postgres", "psql"]
                    .iter()
                    .all(|program| folder.join(program).is_file())
            })
            .map(Programs)
            .ok_or_else(|| {
                ServerError::new(
                    "PostgreSQL's server programs (initdb, postgres) were not found in PATH nor under /usr/lib/postgresql; \
                     install them (Debian and Ubuntu: apt install postgresql; Fedora: dnf install postgresql-server)",
                )
            })
    }

    pub(super) fn command(&self, program: &str) -> Command {
        Command::new(self.0.join(program))
    }
}

/// `base/VERSION/last` for each folder that looks like PostgreSQL's (`15`, `pgsql-16`, `postgresql@17`), newest first.
fn versions(base: &str, last: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(base)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let digits = name
                .trim_start_matches("pgsql-")
                .trim_start_matches("postgresql@");
            Some((digits.parse().ok()?, Path::new(base).join(&name).join(last)))
        })
        .collect();
    found.sort_by_key(|entry| std::cmp::Reverse(entry.0));
    found.into_iter().map(|(_, path)| path).collect()
}
