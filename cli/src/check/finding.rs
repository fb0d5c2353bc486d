//! Findings, as `--output json` prints them: docs/command.md describes them, and their fields keep their names.

use serde::Serialize;

/// Where findings belong, in the order in which they are shown.
pub(super) mod area {
    pub(in crate::check) const CONTROL_PLANE: &str = "control plane";
    pub(in crate::check) const TRUST: &str = "trust";
    pub(in crate::check) const OBJECTS: &str = "policies and splits";
    pub(in crate::check) const NAMESPACES: &str = "meshed namespaces";
}

/// All findings.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// The worst of all.
    pub(super) state: State,
    pub(super) findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) area: &'static str,
    pub(super) subject: String,
    pub(super) state: State,
    pub(super) detail: String,
    /// What to do; empty when all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) advice: String,
}

/// From best to worst; what has failed is worse than what is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    #[default]
    Ok,
    /// It works, and somebody should look at it.
    Warning,
    /// It could not be found out.
    Unknown,
    /// It does not work.
    Failed,
}

/// A finding before its area is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    subject: String,
    state: State,
    detail: String,
    advice: String,
}

impl Report {
    /// Adds what was seen; where nothing could be seen, that.
    pub(super) fn add(&mut self, area: &'static str, subject: &str, seen: anyhow::Result<Vec<Seen>>) {
        let seen = seen.unwrap_or_else(|error| {
            let (state, advice) = (State::Unknown, String::new());
            vec![Seen { subject: subject.to_owned(), state, detail: format!("{error:#}"), advice }]
        });
        for Seen { subject, state, detail, advice } in seen {
            self.state = self.state.max(state);
            self.findings.push(Finding { area, subject, state, detail, advice });
        }
    }
}

impl Seen {
    pub(super) fn ok(subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { subject: subject.into(), state: State::Ok, detail: detail.into(), advice: String::new() }
    }

    pub(super) fn warning(
        subject: impl Into<String>,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let (subject, detail, advice) = (subject.into(), detail.into(), advice.into());
        Self { subject, state: State::Warning, detail, advice }
    }

    pub(super) fn failed(
        subject: impl Into<String>,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let (subject, detail, advice) = (subject.into(), detail.into(), advice.into());
        Self { subject, state: State::Failed, detail, advice }
    }
}
