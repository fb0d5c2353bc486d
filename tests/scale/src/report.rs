//! The table, and which bars were met.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::{churn, reconnect};

const PROPAGATION_MS: f64 = 1000.0;
const RECONNECT_SECONDS: f64 = 20.0;
const RSS_MIB: f64 = 300.0;

/// One size.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) endpoints: usize,
    pub(crate) services: usize,
    pub(crate) streams: usize,
    /// Proxies started at this size.
    pub(crate) started: usize,
    pub(crate) start_seconds: f64,
    pub(crate) churn: churn::Outcome,
    /// Of both operators, while endpoints changed.
    pub(crate) cpu_seconds: f64,
    /// Share of the machine that everything took then.
    pub(crate) machine_busy: f64,
    pub(crate) rss_mib: f64,
    pub(crate) peak_mib: f64,
    pub(crate) one: reconnect::Outcome,
    pub(crate) both: reconnect::Outcome,
}

/// Half of all, nearly all, all.
#[derive(Serialize)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl FromIterator<Duration> for Spread {
    fn from_iter<T: IntoIterator<Item = Duration>>(times: T) -> Self {
        let mut times: Vec<Duration> = times.into_iter().collect();
        times.sort();
        let ms = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        Self { p50: ms(50), p99: ms(99), max: ms(100) }
    }
}

impl Spread {
    fn text(&self) -> String {
        format!("{:.0} / {:.0} / {:.0}", self.p50, self.p99, self.max)
    }
}

/// Prints all. False: memory is over its bar, or a change was lost; time is only told, since it is also the machine's.
pub(crate) fn print(rows: &[Row], json: bool) -> Result<bool> {
    let Some(largest) = rows.last() else { return Ok(true) };
    let lost: usize = rows.iter().map(|row| row.churn.lost).sum();
    let held = largest.peak_mib <= RSS_MIB && lost == 0;
    if json {
        println!("{}", serde_json::to_string_pretty(rows)?);
        return Ok(held);
    }
    for (title, cell) in lines() {
        let cells: Vec<String> = rows.iter().map(|row| format!("{:>22}", cell(row))).collect();
        println!("| {title:<58} | {} |", cells.join(" | "));
        if title == "endpoints" {
            println!("|{}|{}", "-".repeat(60), format!("{}:|", "-".repeat(23)).repeat(rows.len()));
        }
    }
    println!("\nAt {} endpoints and {} streams:", largest.endpoints, largest.streams);
    let met = |is: bool| if is { "met" } else { "missed" };
    let reconnect = largest.one.seconds.max(largest.both.seconds);
    let p99 = largest.churn.propagation_ms.p99;
    println!("{}: propagation p99 <= 1 s: {p99:.0} ms", met(p99 <= PROPAGATION_MS));
    println!("{}: reconnect of all <= 20 s: {reconnect:.1} s", met(reconnect <= RECONNECT_SECONDS));
    println!("{}: resident <= 300 MiB: {:.0} MiB", met(largest.peak_mib <= RSS_MIB), largest.peak_mib);
    println!("{}: no change lost: {lost}", met(lost == 0));
    Ok(held)
}

type Cell = fn(&Row) -> String;

fn lines() -> Vec<(&'static str, Cell)> {
    vec![
        ("endpoints", |row| row.endpoints.to_string()),
        ("Services", |row| row.services.to_string()),
        ("streams", |row| row.streams.to_string()),
        ("all new proxies have certificate and content (proxies: s)", |row| {
            format!("{}: {:.1}", row.started, row.start_seconds)
        }),
        ("changes per second", |row| format!("{:.0}", row.churn.changes_per_second)),
        ("propagation, p50 / p99 / max (ms)", |row| row.churn.propagation_ms.text()),
        ("... of it after the API server's answer (ms)", |row| row.churn.after_write_ms.text()),
        ("... the API server's answer (ms)", |row| row.churn.api_ms.text()),
        ("changes that a stream never got", |row| row.churn.lost.to_string()),
        ("operators' CPU per change, both together (ms)", |row| {
            #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
            let changes = row.churn.changes as f64;
            format!("{:.1}", row.cpu_seconds * 1000.0 / changes.max(1.0))
        }),
        ("CPU of the machine in use meanwhile, by everything (%)", |row| {
            format!("{:.0}", row.machine_busy * 100.0)
        }),
        ("larger operator, resident (MiB)", |row| format!("{:.0}", row.rss_mib)),
        ("larger operator, resident at its highest (MiB)", |row| format!("{:.0}", row.peak_mib)),
        ("one operator ends: streams back (streams: s)", |row| back(&row.one)),
        ("both operators end: streams back (streams: s)", |row| back(&row.both)),
    ]
}

fn back(outcome: &reconnect::Outcome) -> String {
    format!("{}: {:.1}", outcome.ended, outcome.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_of_what_was_measured() {
        let spread: Spread = (1..=200).map(Duration::from_millis).collect();
        assert_eq!((spread.p50, spread.p99, spread.max), (100.0, 198.0, 200.0));
        let one: Spread = [Duration::from_secs(1)].into_iter().collect();
        assert_eq!((one.p50, one.max), (1000.0, 1000.0));
    }
}
