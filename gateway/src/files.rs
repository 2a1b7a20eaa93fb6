//! Files of the node's own that nobody else may read.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

/// Writes a file that only its owner can read; it is whole or not there at all.
///
/// # Errors
/// The operating system's, with the path.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let half = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&half)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&half, path)
    };
    write().with_context(|| format!("{} can't be written", path.display()))
}
