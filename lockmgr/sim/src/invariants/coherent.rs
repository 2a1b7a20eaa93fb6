//! I5: after a change is acknowledged, no node serves the older state.

/// A read that began when `acknowledged` was the latest version that anybody had been told of showed `seen`; `latest` is committed.
///
/// # Errors
/// It showed an older state, or one that is not there.
pub fn check(
    document: u64,
    reader: &str,
    acknowledged: u64,
    seen: u64,
    latest: u64,
) -> Result<(), String> {
    if seen < acknowledged {
        return Err(format!(
            "{reader} read version {seen} of document {document} after version {acknowledged} was acknowledged"
        ));
    }
    if seen > latest {
        return Err(format!(
            "{reader} read version {seen} of document {document}, of which only {latest} are committed"
        ));
    }
    Ok(())
}
