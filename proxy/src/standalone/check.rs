//! `byrnie-proxy check FILE`: everything that is wrong with a file and those that it names, for people and for programs.

use std::{fmt::Write, fs, path::Path};

use serde::Serialize;

use super::{
    problem::{Problem, Problems},
    read::read,
};

/// What was found.
#[derive(Debug, Serialize)]
pub struct Check<'a> {
    file: &'a Path,
    ok: bool,
    problems: Vec<Problem>,
}

/// Reads a file as `run` would.
pub fn check(file: &Path) -> Check<'_> {
    let problems = read(file).1.err().map_or_else(Vec::new, |Problems(problems)| problems);
    Check { file, ok: problems.is_empty(), problems }
}

impl Check<'_> {
    /// 0: a proxy would run by it. 1: it would not. 2: it cannot be read at all.
    pub fn exit_status(&self) -> u8 {
        if self.ok { 0 } else { 1 + u8::from(fs::File::open(self.file).is_err()) }
    }

    /// One line for each problem, and how many there are.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for problem in &self.problems {
            // a String takes all that is written to it
            let _ = writeln!(text, "{problem}");
        }
        let _ = match self.problems.len() {
            0 => writeln!(text, "{}: no problems", self.file.display()),
            1 => writeln!(text, "1 problem"),
            number => writeln!(text, "{number} problems"),
        };
        text
    }

    /// The same for programs.
    ///
    /// # Errors
    /// When the file's name is no Unicode.
    pub fn json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}
