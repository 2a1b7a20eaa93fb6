//! The FTP head's certificate: the one that is configured, or a self-made pair kept in the node's state folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Loads certificate and key, or makes a pair valid for `names` on first use.
///
/// # Errors
/// A missing or unreadable file, or a key that doesn't fit: with the file's name.
pub fn server_config(
    configured: Option<(&Path, &Path)>,
    state_dir: &Path,
    names: &[String],
) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let (cert, key) = match configured {
        Some((cert, key)) => (cert.to_path_buf(), key.to_path_buf()),
        None => self_made(state_dir, names)?,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&cert)
        .and_then(|certs| certs.collect())
        .with_context(|| {
            format!(
                "ftp.tls_cert: {} is not a readable PEM certificate",
                cert.display()
            )
        })?;
    let private = PrivateKeyDer::from_pem_file(&key)
        .with_context(|| format!("ftp.tls_key: {} is not a readable PEM key", key.display()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .context("no TLS version is usable")?
    .with_no_client_auth()
    .with_single_cert(chain, private)
    .with_context(|| {
        format!(
            "ftp.tls_key: {} does not fit {}",
            key.display(),
            cert.display()
        )
    })?;
    // A client that only sends never reads tickets, and a socket closed with unread bytes sends a reset, which
    // would cut the end of an upload off.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn self_made(state_dir: &Path, names: &[String]) -> anyhow::Result<(PathBuf, PathBuf)> {
    let dir = state_dir.join("tls");
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let made = rcgen::generate_simple_self_signed(names.to_vec())
        .context("a certificate can't be made")?;
    std::fs::create_dir_all(&dir).with_context(|| format!("{} can't be made", dir.display()))?;
    crate::files::write_private(&key, made.signing_key.serialize_pem().as_bytes())?;
    crate::files::write_private(&cert, made.cert.pem().as_bytes())?;
    Ok((cert, key))
}
