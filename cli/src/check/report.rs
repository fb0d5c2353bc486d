//! Findings, and how they are printed.

use serde::Serialize;

use crate::{
    args::Format,
    output::{bad, bold, dim, doubtful, good},
};

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    area: &'static str,
    subject: String,
    state: State,
    detail: String,
    /// What to do; empty when all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Failed,
}

impl Finding {
    /// All is well.
    pub(crate) fn ok(area: &'static str, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { area, subject: subject.into(), state: State::Ok, detail: detail.into(), advice: String::new() }
    }

    /// It works, and somebody should look at it.
    pub(crate) fn warning(
        area: &'static str,
        subject: impl Into<String>,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            area,
            subject: subject.into(),
            state: State::Warning,
            detail: detail.into(),
            advice: advice.into(),
        }
    }

    /// It does not work.
    pub(crate) fn failed(
        area: &'static str,
        subject: impl Into<String>,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            area,
            subject: subject.into(),
            state: State::Failed,
            detail: detail.into(),
            advice: advice.into(),
        }
    }

    /// Whether it does not work.
    pub(crate) fn is_failed(&self) -> bool {
        self.state == State::Failed
    }
}

/// Prints all findings, grouped by area in the order they came.
pub(crate) fn print(findings: &[Finding], format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(findings)?);
        return Ok(());
    }
    let mut area = "";
    for finding in findings {
        if finding.area != area {
            if !area.is_empty() {
                anstream::println!();
            }
            area = finding.area;
            anstream::println!("{}", bold(area));
        }
        let mark = match finding.state {
            State::Ok => good("ok  "),
            State::Warning => doubtful("warn"),
            State::Failed => bad("FAIL"),
        };
        anstream::println!("  {mark} {}  {}", finding.subject, dim(&finding.detail));
        if !finding.advice.is_empty() {
            anstream::println!("       -> {}", finding.advice);
        }
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let (warnings, failures) = (count(State::Warning), count(State::Failed));
    let verdict = match (failures, warnings) {
        (0, 0) => good("everything is well"),
        (0, n) => doubtful(format!("it works; {n} warning(s)")),
        (n, _) => bad(format!("{n} of {} checks failed", findings.len())),
    };
    anstream::println!("\n{verdict}");
    Ok(())
}
