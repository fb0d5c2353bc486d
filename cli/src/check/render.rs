//! Findings for people: by area, in columns, with what to do below.

use super::finding::{Finding, Report, State};
use crate::output::{bad, bold, count, dim, doubtful, good, line};

/// One long name must not push all others' details away.
const WIDEST: usize = 44;

pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    let findings = &report.findings;
    let width =
        findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or_default().min(WIDEST);
    let (mut area, mut advice) = ("", "");
    for finding in findings {
        if finding.area != area {
            let gap = if area.is_empty() { "" } else { "\n" };
            area = finding.area;
            line(&mut out, &format!("{gap}{}", bold(area)));
        }
        show(&mut out, finding, width);
        if !finding.advice.is_empty() && finding.advice != advice {
            line(&mut out, &format!("        {} {}", dim("->"), finding.advice));
        }
        // Said once for several in a row.
        advice = &finding.advice;
    }
    line(&mut out, &format!("\n{}", summary(findings)));
    out
}

fn show(out: &mut String, finding: &Finding, width: usize) {
    let mark = match finding.state {
        State::Ok => good("ok  "),
        State::Warning => doubtful("warn"),
        State::Unknown => doubtful("????"),
        State::Failed => bad("FAIL"),
    };
    let detail = if finding.state == State::Ok { dim(&finding.detail) } else { finding.detail.clone() };
    line(out, &format!("  {mark}  {:width$}  {detail}", finding.subject));
}

fn summary(findings: &[Finding]) -> String {
    let of = |state| findings.iter().filter(|finding| finding.state == state).count();
    let also = |number: usize, what: &str| match number {
        0 => String::new(),
        n => format!(", {n} {what}"),
    };
    let (warnings, unknown) = (of(State::Warning), of(State::Unknown));
    match (of(State::Failed), unknown, warnings) {
        (0, 0, 0) => good("everything is well"),
        (0, 0, n) => doubtful(format!("it works, with {}", count(n, "warning"))),
        (0, n, _) => {
            doubtful(format!("{} could not be made{}", count(n, "check"), also(warnings, "with a warning")))
        }
        (n, ..) => bad(format!(
            "{} failed{}{}",
            count(n, "check"),
            also(unknown, "could not be made"),
            also(warnings, "with a warning")
        )),
    }
}
