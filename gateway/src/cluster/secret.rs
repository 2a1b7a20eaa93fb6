//! The file with the secret that all nodes share. Its content is never logged.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, bail};

/// Fewer characters can be guessed.
const SHORTEST: usize = 16;

/// Reads the secret: the file's text without blanks around it.
///
/// # Errors
/// The file can't be read, is too short, or everybody may read it; says what to do.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let content = std::fs::read(path).with_context(|| {
        format!(
            "cluster.secret_file: {shown} can't be read; make it once (openssl rand -hex 32 > FILE; chmod 600 FILE) and copy it to every node"
        )
    })?;
    let mode = std::fs::metadata(path)
        .with_context(|| format!("cluster.secret_file: {shown}"))?
        .permissions()
        .mode();
    if mode & 0o007 != 0 {
        bail!("cluster.secret_file: everybody on this machine may read {shown}; chmod 600 {shown}");
    }
    let secret = content.trim_ascii();
    if secret.len() < SHORTEST {
        bail!(
            "cluster.secret_file: {shown} holds fewer than {SHORTEST} characters; make a new one with: openssl rand -hex 32"
        );
    }
    Ok(secret.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_must_be_long_enough_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let told = || read(&path).unwrap_err().to_string();
        assert!(told().contains("can't be read"));
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let mode = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o644);
        assert!(told().contains("chmod 600"));
        mode(0o600);
        assert_eq!(read(&path).unwrap(), b"0123456789abcdef");
        std::fs::write(&path, "short").unwrap();
        assert!(told().contains("fewer than"));
    }
}
