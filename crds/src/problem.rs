//! What is wrong with an object, and where: said the same way by webhook, condition and CLI.

use std::fmt;

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
    /// Puts one together.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
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

/// Problems in one line of bounded length, for a condition's message or a webhook's answer.
pub fn in_one_line(problems: &[Problem]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = problems.iter().take(SHOWN).map(ToString::to_string).collect();
    let shown = shown.join("; ");
    if problems.len() > SHOWN { format!("{shown}; and {} more", problems.len() - SHOWN) } else { shown }
}
