//! Keys, signatures and encryption of messages. Holds secrets: nothing here has `Debug` or is ever logged.

pub mod encryption;
pub mod kdf;
pub mod preauth;
pub mod signing;

/// `N` random bytes from the operating system. Only a broken system has none; then nothing may go on.
pub fn random<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    if getrandom::fill(&mut out).is_err() {
        tracing::error!("the operating system gives no random numbers");
        std::process::abort();
    }
    out
}
