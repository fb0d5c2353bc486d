//! One JSON line per request or connection on standard output, where the pod's owner wants it.
//!
//! Denials are all written; of what fails otherwise, no more than a [`crate::quota`]. A worker never waits for the log: what its reader does not take in time is dropped and counted. Text that came
//! from outside is escaped, so that a line is always one line.

use std::{
    io::{self, Write},
    str::FromStr,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use byrnie_model::{ObjectName, SpiffeId};
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;

use crate::metrics::Direction;

/// Lines that may wait for the reader.
const WAITING: usize = 1024;
/// Longer texts from outside are cut.
pub const MAX_TEXT: usize = 512;

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Level {
    /// Every request.
    All,
    /// What was refused or failed.
    #[default]
    Denied,
    /// Nothing.
    Off,
}

/// Where workers put their lines. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    level: Level,
    lines: Option<SyncSender<Record>>,
    dropped: Counter,
}

/// One request, or one connection that carried no HTTP.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it ended.
    pub time: SystemTime,
    /// Which way.
    pub direction: Direction,
    /// The verified other side.
    pub peer: Option<SpiffeId>,
    /// The `destination` label.
    pub destination: String,
    /// The request, if it was one.
    pub http: Option<HttpEntry>,
    /// Bytes from the caller.
    pub received: u64,
    /// Bytes to the caller.
    pub sent: u64,
    /// From the first byte to the last.
    pub duration: Duration,
    /// Why the proxy refused or failed it; `None` when it did not.
    pub reason: Option<&'static str>,
    /// `allow`, `deny` or `audit`; empty where nothing was decided.
    pub verdict: &'static str,
    /// The policy that decided.
    pub policy: Option<ObjectName>,
    /// The rule of that policy.
    pub rule: Option<usize>,
    /// The pod that served it.
    pub endpoint: String,
}

/// What goes to the thread that writes.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are entries")]
enum Record {
    Entry(Entry),
    LeftOut { time: SystemTime, direction: Direction, reason: &'static str, count: u64 },
}

/// What a log says about a request.
#[derive(Clone, Debug)]
pub struct HttpEntry {
    /// Method.
    pub method: String,
    /// Path; a query is cut off here.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
    /// Status of the response; 0 when there was none.
    pub status: u16,
}

impl AccessLog {
    /// Starts a thread that writes to standard output, unless the level is [`Level::Off`].
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(level: Level, dropped: Counter) -> io::Result<Self> {
        if level == Level::Off {
            return Ok(Self { level, lines: None, dropped });
        }
        let (lines, waiting) = sync_channel(WAITING);
        thread::Builder::new().name("access-log".into()).stack_size(256 * 1024).spawn(move || {
            // a reader that went away ends the log, not the proxy
            let _ = write(&waiting, &mut io::stdout().lock());
        })?;
        Ok(Self { level, lines: Some(lines), dropped })
    }

    /// A log that writes nothing.
    pub fn off() -> Self {
        Self { level: Level::Off, lines: None, dropped: Counter::default() }
    }

    /// Whether to build an entry at all, for something that failed or went well.
    pub fn wants(&self, failed: bool) -> bool {
        match self.level {
            Level::All => true,
            Level::Denied => failed,
            Level::Off => false,
        }
    }

    /// Whether the same mishap may be written about without end: where every request is, it is wanted.
    pub fn is_complete(&self) -> bool {
        self.level == Level::All
    }

    /// Hands a line over; never waits.
    pub fn log(&self, entry: Entry) {
        self.hand_over(Record::Entry(entry));
    }

    /// Says how many lines of one kind were not written.
    pub fn left_out(&self, direction: Direction, reason: &'static str, count: u64) {
        self.hand_over(Record::LeftOut { time: SystemTime::now(), direction, reason, count });
    }

    fn hand_over(&self, record: Record) {
        if let Some(lines) = &self.lines
            && lines.try_send(record).is_err()
        {
            self.dropped.inc();
        }
    }
}

impl FromStr for Level {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "denied" => Ok(Self::Denied),
            "off" => Ok(Self::Off),
            other => Err(format!("'{other}' is none of all, denied, off")),
        }
    }
}

fn write(waiting: &Receiver<Record>, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(1024);
    while let Ok(first) = waiting.recv() {
        let mut next = Some(first);
        while let Some(record) = next.take() {
            match record {
                Record::Entry(entry) => line(&entry, &mut buffer)?,
                Record::LeftOut { time, direction, reason, count } => {
                    let (time, direction) = (rfc3339(time), direction.as_str());
                    end(&LeftOut { time, direction, reason, suppressed: count }, &mut buffer)?;
                }
            }
            if buffer.len() < 32 * 1024 {
                next = waiting.try_recv().ok();
            }
        }
        to.write_all(&buffer)?;
        to.flush()?;
        buffer.clear();
    }
    Ok(())
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
    destination: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    received: u64,
    sent: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<usize>,
    #[serde(skip_serializing_if = "str::is_empty")]
    endpoint: &'a str,
}

#[derive(Serialize)]
struct LeftOut {
    time: String,
    direction: &'static str,
    reason: &'static str,
    suppressed: u64,
}

fn line(entry: &Entry, into: &mut Vec<u8>) -> io::Result<()> {
    let http = entry.http.as_ref();
    let line = Line {
        time: rfc3339(entry.time),
        direction: entry.direction.as_str(),
        peer: entry.peer.as_ref().map(SpiffeId::as_str),
        destination: &entry.destination,
        method: http.map(|h| printable(&h.method)),
        path: http.map(|h| printable(h.path.split(['?', '#']).next().unwrap_or_default())),
        protocol: http.map(|h| h.protocol),
        status: http.map(|h| h.status),
        received: entry.received,
        sent: entry.sent,
        duration_ms: (entry.duration.as_secs_f64() * 1e6).round() / 1e3,
        reason: entry.reason,
        verdict: entry.verdict,
        policy: entry.policy.as_ref().map(ToString::to_string),
        rule: entry.rule,
        endpoint: &entry.endpoint,
    };
    end(&line, into)
}

fn end(line: &impl Serialize, into: &mut Vec<u8>) -> io::Result<()> {
    serde_json::to_writer(&mut *into, line)?;
    into.push(b'\n');
    Ok(())
}

/// Text from outside, cut, with everything but printable ASCII written as `%XX`.
fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len().min(MAX_TEXT));
    for byte in text.bytes() {
        if safe.len() >= MAX_TEXT {
            safe.push_str("...");
            break;
        }
        if (0x20..0x7f).contains(&byte) {
            safe.push(char::from(byte));
        } else {
            safe.push('%');
            for digit in [byte >> 4, byte & 15] {
                safe.push(char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase());
            }
        }
    }
    safe
}

/// UTC with milliseconds. Days to a date after Howard Hinnant's `civil_from_days`.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry {
            time: UNIX_EPOCH + Duration::from_millis(951_827_696_789),
            direction: Direction::Inbound,
            peer: Some("spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()),
            destination: "8080".into(),
            http: Some(HttpEntry {
                method: "GET".into(),
                path: path.into(),
                protocol: "HTTP/1.1",
                status: 403,
            }),
            received: 0,
            sent: 12,
            duration: Duration::from_micros(1250),
            reason: Some("denied-by-rule"),
            verdict: "deny",
            policy: Some(ObjectName::new("shop", "payments")),
            rule: Some(0),
            endpoint: String::new(),
        }
    }

    fn written(entry: &Entry) -> String {
        let mut line = Vec::new();
        super::line(entry, &mut line).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_line_says_everything() {
        assert_eq!(
            written(&entry("/charge?card=4111")),
            concat!(
                r#"{"time":"2000-02-29T12:34:56.789Z","direction":"inbound","#,
                r#""peer":"spiffe://cluster.local/ns/shop/sa/web","destination":"8080","method":"GET","#,
                r#""path":"/charge","protocol":"HTTP/1.1","status":403,"received":0,"sent":12,"duration_ms":1.25,"#,
                r#""reason":"denied-by-rule","verdict":"deny","policy":"shop/payments","rule":0}"#,
                "\n"
            )
        );
    }

    #[test]
    fn hostile_text_stays_on_its_line() {
        let line = written(&entry("/a\n{\"time\":\"x\"}\u{1b}[31m\u{2028}\u{fc}\"\\"));
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.contains(r#""path":"/a%0A{\"time\":\"x\"}%1B[31m%E2%80%A8%C3%BC\"\\""#), "{line}");
        assert!(written(&entry(&"/x".repeat(4000))).len() < 1000);
    }

    #[test]
    fn a_slow_reader_costs_lines_not_time() {
        let (lines, waiting) = sync_channel(2);
        let log = AccessLog { level: Level::All, lines: Some(lines), dropped: Counter::default() };
        for _ in 0..4 {
            log.left_out(Direction::Inbound, "body-cut", 7);
            log.log(entry("/"));
        }
        assert_eq!(log.dropped.get(), 6);
        drop(log);
        let mut out = Vec::new();
        write(&waiting, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.lines().count(), 2);
        assert!(out.contains(r#""direction":"inbound","reason":"body-cut","suppressed":7}"#), "{out}");
    }

    #[test]
    fn levels_choose() {
        let log = |level| AccessLog { level, lines: None, dropped: Counter::default() };
        assert!(log(Level::All).wants(false) && log(Level::Denied).wants(true));
        assert!(!log(Level::Denied).wants(false) && !log(Level::Off).wants(true));
        assert!("verbose".parse::<Level>().is_err());
    }
}
