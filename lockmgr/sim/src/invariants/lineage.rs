//! I2 and I4: a committed version's base is the version before it, and every acknowledged change is there, once.

/// `history`: the operations whose commits are in a document's history, in order. `acknowledged`: those that clients were told of, with
/// the version that they were told.
///
/// # Errors
/// An acknowledged change that is not there, or not where it was said to be.
pub fn check(document: u64, history: &[u64], acknowledged: &[(u64, u64)]) -> Result<(), String> {
    for (operation, version) in acknowledged {
        let at = usize::try_from(*version)
            .ok()
            .and_then(|v| v.checked_sub(1));
        if at.and_then(|at| history.get(at)) != Some(operation) {
            return Err(format!(
                "operation {operation} was acknowledged as version {version} of document {document} and is not that"
            ));
        }
    }
    Ok(())
}
