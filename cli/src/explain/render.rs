//! The answer for people: verdict first, then why, then which pods.

use serde_json::Value;

use super::answer::{Backend, Considered, Explanation, From, Group, Rule, Target, Verdict};
use crate::output::{bad, bold, dim, doubtful, good, line};

/// So many rules that do not match are shown as they were written; of more, where they do not match.
const WRITTEN_OUT: usize = 3;
/// So many pods are named.
const NAMED: usize = 4;

pub(super) fn text(explanation: &Explanation) -> String {
    let mut out = String::new();
    let groups: usize = explanation.backends.iter().map(|backend| backend.groups.len()).sum();
    let caller = caller(&explanation.from);
    let verdict = match explanation.verdict {
        Verdict::Allowed => good("ALLOWED"),
        Verdict::Refused => bad("REFUSED"),
    };
    line(&mut out, &format!("{verdict}  {}", bold(call(explanation, &caller))));
    if let Some(split) = &explanation.split {
        line(&mut out, &format!("         divided by TrafficSplit {split}"));
    }
    for backend in &explanation.backends {
        if explanation.split.is_some() {
            out.push('\n');
            line(&mut out, &share(backend));
        }
        for group in &backend.groups {
            out.push('\n');
            show(&mut out, group, &caller, groups > 1);
        }
    }
    for (at, note) in explanation.notes.iter().enumerate() {
        if at == 0 {
            out.push('\n');
        }
        let stop = if note.ends_with('?') { "" } else { "." };
        line(&mut out, &format!("{} {note}{stop}", doubtful("note:")));
    }
    out
}

/// `shop/web`
fn caller(from: &From) -> String {
    match from {
        From::Identity(id) => {
            id.split_once("/ns/").map_or(id.clone(), |(_, rest)| rest.replacen("/sa/", "/", 1))
        }
        From::Plaintext(_) => "plaintext".into(),
    }
}

/// `shop/web -> service shop/payments:8080  GET /quote`
fn call(explanation: &Explanation, caller: &str) -> String {
    let Target { kind, namespace, name, port } = &explanation.to;
    let what = match &explanation.request {
        Some(request) => format!("{} {}", request.method, request.path),
        None => "bytes that are no HTTP".into(),
    };
    format!("{caller} -> {} {namespace}/{name}:{port}  {what}", kind.to_lowercase())
}

fn share(backend: &Backend) -> String {
    let name = backend.service.as_deref().unwrap_or_default();
    let weight = backend.weight.unwrap_or_default();
    let percent = (backend.share * 1000.0).round() / 10.0;
    format!("{}  {percent} % of the calls {}", bold(name), dim(format!("(weight {weight})")))
}

fn show(out: &mut String, group: &Group, caller: &str, one_of_several: bool) {
    let verdict = match group.verdict {
        _ if !one_of_several => String::new(),
        Verdict::Allowed => format!(": {}", good("allowed")),
        Verdict::Refused => format!(": {}", bad("refused")),
    };
    line(out, &format!("  {}{verdict}", dim(format!("port {} of {}", group.port, pods(&group.pods)))));
    line(out, &format!("  {}", group.ground.because));
    if let Some(rule) = &group.ground.rule {
        written(out, rule, "    ");
    }
    considered(out, &group.ground.considered, caller);
    if group.verdict == Verdict::Refused {
        let gets = match group.status {
            Some(status) => format!("status {status}, byrnie-reason: {}", group.ground.reason),
            None => format!("a reset connection; the pod's proxy logs {}", group.ground.reason),
        };
        line(out, &format!("  The caller gets {gets}."));
    }
    if let Some(audit) = &group.audit {
        line(
            out,
            &format!(
                "  {} without the audit it would be refused ({}). {}",
                doubtful("Audit:"),
                audit.reason,
                audit.because
            ),
        );
        if let Some(rule) = &audit.rule {
            written(out, rule, "    ");
        }
        considered(out, &audit.considered, caller);
    }
}

fn considered(out: &mut String, rules: &[Considered], caller: &str) {
    let several = rules.iter().any(|other| rules.first().is_some_and(|first| first.policy != other.policy));
    for Considered { policy, rule, mismatches } in rules {
        let of = if several { format!(" of {policy}") } else { String::new() };
        line(out, &format!("    {}{of}: {}", rule.label(), missed(mismatches, caller)));
        if rules.len() <= WRITTEN_OUT {
            written(out, rule, "      ");
        }
    }
}

/// Where a rule does not match: `its sources do not name shop/web; http[0] does not match by its path`.
fn missed(mismatches: &[String], caller: &str) -> String {
    let mut said = Vec::new();
    let fields = mismatches.iter().map(|mismatch| mismatch.split_once('.').unwrap_or((mismatch, "")));
    for here in fields.collect::<Vec<_>>().chunk_by(|a, b| a.0 == b.0) {
        let names: Vec<&str> = here.iter().map(|(_, field)| *field).collect();
        said.push(match here[0].0 {
            "sources" => format!("its sources do not name {caller}"),
            "ports" => "it is for other ports".into(),
            at => format!("{at} does not match by its {}", names.join(", ")),
        });
    }
    said.join("; ")
}

/// A rule as YAML.
fn written(out: &mut String, rule: &Rule, indent: &str) {
    for text in yaml(&rule.text) {
        line(out, &dim(format!("{indent}{text}")));
    }
}

/// Each field of the rule in a line of its own, and its lists item by item. The name is said already.
fn yaml(rule: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for (field, value) in fields(rule).filter(|(field, _)| *field != "name") {
        match value.as_array().filter(|items| items.iter().any(Value::is_object)) {
            Some(items) => {
                lines.push(format!("{field}:"));
                lines.extend(items.iter().map(|item| format!("- {}", flow(item))));
            }
            None => lines.push(format!("{field}: {}", flow(value))),
        }
    }
    lines
}

/// In the order in which people write them.
fn fields(object: &Value) -> impl Iterator<Item = (&str, &Value)> {
    const ORDER: [&str; 11] = [
        "namespace",
        "name",
        "sources",
        "ports",
        "http",
        "methods",
        "path",
        "type",
        "value",
        "hosts",
        "headers",
    ];
    let mut fields: Vec<(&str, &Value)> =
        object.as_object().into_iter().flatten().map(|(field, value)| (field.as_str(), value)).collect();
    fields.sort_by_key(|(field, _)| ORDER.iter().position(|known| known == field));
    fields.into_iter()
}

/// In one line, as people write it.
fn flow(value: &Value) -> String {
    let joined = |items: Vec<String>| items.join(", ");
    match value {
        Value::Array(items) => format!("[{}]", joined(items.iter().map(flow).collect())),
        Value::Object(_) => {
            format!("{{{}}}", joined(fields(value).map(|(k, v)| format!("{k}: {}", flow(v))).collect()))
        }
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether YAML takes the text for itself without quotes, also within brackets.
fn is_plain(text: &str) -> bool {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    starts
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'))
        && !words.contains(&text.to_ascii_lowercase().as_str())
}

fn pods(pods: &[String]) -> String {
    let named = pods[..pods.len().min(NAMED)].join(", ");
    let more = if pods.len() > NAMED { format!(" and {} more", pods.len() - NAMED) } else { String::new() };
    let word = if pods.len() == 1 { "pod" } else { "pods" };
    format!("{word} {named}{more}")
}
