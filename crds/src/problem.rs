//! What is wrong with an object, and where: said the same way by webhook, condition and CLI.

use std::fmt;

/// The longest path and the longest message, in bytes; a condition holds 32 KiB.
pub const LONGEST: usize = 512;

/// One thing that is wrong (or, as a warning, unwise).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, as in `spec.authorization.rules[0].ports[1]`.
    pub path: String,
    /// What is wrong with it and what would be right.
    pub message: String,
}

/// All that can be said against an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The object is refused for these.
    pub problems: Vec<Problem>,
    /// The object is taken in spite of these.
    pub warnings: Vec<Problem>,
}

impl Problem {
    /// Puts one together. Both may quote what a user wrote, so both are cut at [`LONGEST`].
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: cut(path.into()), message: cut(message.into()) }
    }
}

impl Findings {
    /// Adds a problem.
    pub fn problem(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem::new(path, message));
    }

    /// Adds a warning.
    pub fn warning(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Problem::new(path, message));
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST - 3).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// Problems in one line of bounded length, for a condition's message or a webhook's answer.
pub fn in_one_line(problems: &[Problem]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = problems.iter().take(SHOWN).map(ToString::to_string).collect();
    let shown = shown.join("; ");
    if problems.len() > SHOWN { format!("{shown}; and {} more", problems.len() - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_wrote_is_quoted_within_bounds() {
        let long = Problem::new("spec", format!("{} is odd", "ü".repeat(10_000)));
        assert!(long.message.len() <= LONGEST && long.message.ends_with("ü..."));
        let many = vec![long; 100];
        let line = in_one_line(&many);
        assert!(line.len() < 9 * LONGEST && line.ends_with("and 92 more"), "{line}");
    }
}
