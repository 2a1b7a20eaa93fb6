//! I1: at most one node acts under an exclusive right on a document, and nobody under a shared one beside it.

/// Those who act on one document: clients on nodes whose lease holds by their own clock; `true` if exclusively.
///
/// # Errors
/// Who stands beside an exclusive holder.
pub fn check(document: u64, holders: &[(String, bool)]) -> Result<(), String> {
    match holders.iter().find(|(_, exclusive)| *exclusive) {
        Some((holder, _)) if holders.len() > 1 => {
            let others: Vec<&str> = holders
                .iter()
                .filter(|(other, _)| other != holder)
                .map(|(other, _)| other.as_str())
                .collect();
            Err(format!(
                "{holder} has document {document} for itself, and so have {others:?}"
            ))
        }
        _ => Ok(()),
    }
}
