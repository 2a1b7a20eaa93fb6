//! Search patterns with DOS wildcards (MS-FSA 2.1.4.4).

/// A search pattern, compared without regard to case.
#[derive(Clone, Debug)]
pub struct Pattern {
    chars: Vec<char>,
}

fn fold(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(u), None) => u,
        _ => c,
    }
}

impl Pattern {
    /// Compiles a pattern; an empty one matches everything, as `*` does.
    pub fn new(text: &str) -> Self {
        let chars = if text.is_empty() {
            vec!['*']
        } else {
            text.chars().map(fold).collect()
        };
        Self { chars }
    }

    /// True if every name matches, so that nothing needs comparing.
    pub fn is_all(&self) -> bool {
        self.chars == ['*']
    }

    /// The name itself if the pattern has no wildcard: a lookup answers it.
    pub fn has_wildcard(text: &str) -> bool {
        text.is_empty() || text.contains(['*', '?', '<', '>', '"'])
    }

    /// Compares a name as the wire shows it. Time is bounded by the product of both lengths.
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().map(fold).collect();
        let last_dot = name.iter().rposition(|c| *c == '.');
        // `reach[j]`: the pattern read so far can have consumed the first j characters of the name.
        let mut reach = vec![false; name.len() + 1];
        reach[0] = true;
        for p in &self.chars {
            reach = step(*p, &name, last_dot, &reach);
        }
        reach[name.len()]
    }
}

/// Advances the set of reachable positions by one pattern character.
fn step(p: char, name: &[char], last_dot: Option<usize>, reach: &[bool]) -> Vec<bool> {
    let mut next = vec![false; reach.len()];
    let end = name.len();
    let mut running = false;
    for j in 0..=end {
        running |= reach[j];
        match p {
            '*' => next[j] |= running,
            // DOS_STAR: any run up to and including the last dot's front, or the whole rest.
            '<' => {
                next[j] |= reach[j];
                if let Some(run) = (0..j).find(|i| reach[*i]) {
                    let passes = last_dot.is_none_or(|dot| j <= dot || run > dot);
                    next[j] |= passes || j == end;
                }
            }
            // DOS_QM: one character that is not a dot, or nothing before a dot or at the end.
            '>' => {
                if reach[j] && (j == end || name[j] == '.') {
                    next[j] = true;
                }
                if j < end && reach[j] && name[j] != '.' {
                    next[j + 1] = true;
                }
            }
            // DOS_DOT: a dot, or nothing at the end.
            '"' => {
                if reach[j] && j == end {
                    next[j] = true;
                }
                if j < end && reach[j] && name[j] == '.' {
                    next[j + 1] = true;
                }
            }
            '?' => {
                if j < end && reach[j] {
                    next[j + 1] = true;
                }
            }
            literal => {
                if j < end && reach[j] && name[j] == literal {
                    next[j + 1] = true;
                }
            }
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hit(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).matches(name)
    }

    #[test]
    fn plain_wildcards_match_without_regard_to_case() {
        assert!(hit("*", "anything") && hit("", "anything"));
        assert!(hit("*.TXT", "readme.txt") && !hit("*.txt", "readme.md"));
        assert!(hit("a?c", "abc") && !hit("a?c", "ac"));
        assert!(hit("f*l*e", "file") && !hit("f*x", "file"));
    }

    #[test]
    fn dos_wildcards_follow_the_last_dot() {
        assert!(hit("<.txt", "a.b.txt"));
        assert!(hit("<\"<", "name.ext") && hit("<\"<", "name"));
        assert!(hit("abc>>>", "abc") && hit("abc>>>", "abcd") && !hit("ab>", "abcd"));
        assert!(hit(">>>\"txt", "ab.txt"));
    }

    proptest! {
        #[test]
        fn matching_never_panics(pattern in ".{0,20}", name in ".{0,20}") {
            let _ = hit(&pattern, &name);
        }

        #[test]
        fn a_name_matches_itself(name in "[a-zA-Z0-9._]{1,20}") {
            prop_assert!(hit(&name, &name));
        }
    }
}
