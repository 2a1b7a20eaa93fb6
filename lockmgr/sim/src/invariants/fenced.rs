//! I3: nobody commits whose right has been given to somebody else.

/// A commit by `writer` was accepted while these act on the document.
///
/// # Errors
/// Somebody else does so exclusively.
pub fn check(document: u64, writer: &str, holders: &[(String, bool)]) -> Result<(), String> {
    match holders.iter().find(|(holder, _)| holder != writer) {
        Some((holder, _)) => Err(format!(
            "{writer} committed document {document} while {holder} had a right on it"
        )),
        None => Ok(()),
    }
}
