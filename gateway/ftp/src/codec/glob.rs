//! Wildcards in LIST and NLST arguments (`*`, `?`, `[a-z]`), as command-line clients send them for `mget`.

/// Whether `text` has a wildcard.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Whether `name` matches `pattern` as a whole. Takes at most `pattern * name` steps, whatever the pattern.
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where to go on if the last star has to swallow one more character.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            retry = Some((p + 1, n));
            p += 1;
        } else if let Some(next) = one(&pattern, p, name[n]) {
            p = next;
            n += 1;
        } else if let Some((star, swallowed)) = retry {
            retry = Some((star, swallowed + 1));
            p = star;
            n = swallowed + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// Matches one character at `p`; returns where the pattern goes on.
fn one(pattern: &[char], p: usize, c: char) -> Option<usize> {
    match *pattern.get(p)? {
        '?' => Some(p + 1),
        '[' => match class(pattern, p, c) {
            Some((true, next)) => Some(next),
            Some((false, _)) => None,
            None => (c == '[').then_some(p + 1),
        },
        literal => (literal == c).then_some(p + 1),
    }
}

/// Reads the class that begins at `p`; `None` if it has no end, so the bracket is a plain character.
fn class(pattern: &[char], p: usize, c: char) -> Option<(bool, usize)> {
    let mut at = p + 1;
    let negated = matches!(pattern.get(at), Some('!' | '^'));
    at += usize::from(negated);
    let (mut hit, first) = (false, at);
    loop {
        let low = *pattern.get(at)?;
        if low == ']' && at > first {
            return Some((hit != negated, at + 1));
        }
        let ranged =
            pattern.get(at + 1) == Some(&'-') && !matches!(pattern.get(at + 2), None | Some(']'));
        let high = if ranged { *pattern.get(at + 2)? } else { low };
        hit |= (low..=high).contains(&c);
        at += if ranged { 3 } else { 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_patterns_match() {
        for (pattern, name, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.bak", false),
            ("a?c*", "abcdef", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[", "[", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn no_pattern_panics_and_every_name_matches_itself(pattern in "[\\[\\]!*?a-c-]{0,12}", name in "[a-c.]{0,12}") {
            let _ = matches(&pattern, &name);
            prop_assert!(matches(&name, &name));
            let prefixed = format!("*{name}");
            prop_assert!(matches(&prefixed, &name));
        }
    }
}
