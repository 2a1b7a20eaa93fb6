//! How many threads of this machine run or wait for a processor. Reads what the system tells anybody; never guesses when it doesn't.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

/// Kept open: the system counts at each read.
static LOAD: LazyLock<Option<File>> = LazyLock::new(|| File::open("/proc/loadavg").ok());

/// Threads that run or want to, this one included; `None` if the system doesn't say.
pub(super) fn runnable() -> Option<usize> {
    let mut text = [0; 128];
    let len = LOAD.as_ref()?.read_at(&mut text, 0).ok()?;
    // A system that only plays one for its programs may say that none runs.
    runnable_in(text.get(..len)?).filter(|count| *count > 0)
}

/// The fourth word is `running/existing` (proc_loadavg(5)).
fn runnable_in(text: &[u8]) -> Option<usize> {
    let word = std::str::from_utf8(text).ok()?.split(' ').nth(3)?;
    word.split_once('/')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_how_many_threads_want_a_processor() {
        assert_eq!(runnable_in(b"0.41 0.37 1.20 12/345 6789\n"), Some(12));
        assert_eq!(runnable_in(b"0.41 0.37"), None);
        assert!(runnable().is_none_or(|count| count > 0));
    }
}
