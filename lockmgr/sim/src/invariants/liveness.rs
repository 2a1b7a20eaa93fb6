//! I7: once nothing goes wrong any more, every waiter is answered within a bounded time.

/// Longest wait for one operation on a healthy cluster, in simulated milliseconds.
pub const PATIENCE_MS: u64 = 60_000;

/// A client has waited since `since`; faults ended at `healed`.
///
/// # Errors
/// It waits too long.
pub fn check(client: &str, since: u64, healed: u64, now: u64) -> Result<(), String> {
    let begin = since.max(healed);
    if now.saturating_sub(begin) > PATIENCE_MS {
        return Err(format!(
            "{client} has waited for {} ms on a healthy cluster",
            now - begin
        ));
    }
    Ok(())
}
