//! I5, for readers without a lock: who hears that nobody keeps changes of a document to itself, reads what was acknowledged before it asked.

/// `asked` asked when; `others` decide about the document, each since then, and may keep changes to themselves.
///
/// # Errors
/// One of them did so before the question.
pub fn check(
    document: u64,
    teller: &str,
    asked: u64,
    others: &[(String, u64)],
) -> Result<(), String> {
    match others.iter().find(|(_, since)| *since < asked) {
        Some((other, since)) => Err(format!(
            "{teller} says at a question of {asked} ms that nobody has changes of document {document}; {other} decides about it since {since} ms"
        )),
        None => Ok(()),
    }
}
