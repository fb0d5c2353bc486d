//! What a rotation waits for, for machines and for people.

use std::time::{Duration, SystemTime};

use byrnie_crds::meshtrust::Phase;

use super::census::Laggard;

/// Names in a message before it says "and N more".
const NAMED: usize = 5;

/// Why another root is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Somebody asked.
    Requested,
    /// Half of its life is over.
    HalfLife,
}

/// Why there is nothing to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// No rotation is under way.
    Stable {
        /// When the next one begins.
        next: SystemTime,
    },
    /// One is wanted, and spec.rotation.abort keeps it back.
    Suspended(Why),
    /// A guard is not fulfilled.
    Waiting {
        /// Where; Stable: it is about to begin.
        phase: Phase,
        /// Not earlier than this, whatever proxies do.
        until: Option<SystemTime>,
        /// Who is waited for.
        laggards: Vec<Laggard>,
        /// Whether all pods are known.
        complete: bool,
    },
    /// A compromised root is on its way out.
    Emergency {
        /// Nobody is waited for any longer than this.
        until: SystemTime,
        /// Who is waited for.
        laggards: Vec<Laggard>,
    },
    /// MeshTrust is older than what proxies have.
    Restored {
        /// Its epoch.
        stored: u64,
        /// The highest epoch that a proxy has.
        newest: u64,
        /// Nothing is signed.
        frozen: bool,
        /// What keeps it from being brought in line.
        problem: String,
    },
}

/// An [`Outlook`] as a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// Whether a rotation is under way or wanted.
    pub rotating: bool,
    /// CamelCase, for machines.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Outlook {
    /// In words, as of `now`.
    pub fn words(&self, now: SystemTime) -> Words {
        let (rotating, reason, message) = match self {
            Self::Stable { next } => {
                (false, "Stable", format!("the next rotation begins by itself on {}", date(*next)))
            }
            Self::Suspended(why) => {
                let why = match why {
                    Why::Requested => "a rotation was asked for",
                    Why::HalfLife => "half of the root's life is over",
                };
                (false, "Suspended", format!("{why}, and spec.rotation.abort keeps it back"))
            }
            Self::Waiting { laggards, .. } if !laggards.is_empty() => {
                (true, "WaitingForProxies", format!("{}: {}", self.aim(), listed(laggards)))
            }
            Self::Waiting { complete: false, .. } => {
                let message = format!("{}; not all pods are known at the moment", self.aim());
                (true, "WaitingForPods", message)
            }
            Self::Waiting { until, .. } => {
                let message = match until.filter(|until| *until > now) {
                    Some(until) => format!("{}; not before {}", self.aim(), date(until)),
                    None => self.aim().to_owned(),
                };
                (true, "WaitingForTime", message)
            }
            Self::Emergency { until, laggards } => {
                let left = until.duration_since(now).unwrap_or_default().as_secs();
                let names = listed(laggards);
                let message =
                    format!("a compromised root goes in {left} s at the latest; waiting for {names}");
                (true, "Emergency", message)
            }
            Self::Restored { stored, newest, frozen, problem } => {
                let issued = if *frozen { "; no certificate is issued" } else { "" };
                let message = format!(
                    "an older state was restored{issued}: this is epoch {stored}, proxies know of {newest}; {problem}"
                );
                (true, "Restored", message)
            }
        };
        Words { rotating, reason, message }
    }

    /// Nothing but proxies keeps the next step from being taken.
    pub fn is_held_up(&self, now: SystemTime) -> bool {
        matches!(self, Self::Waiting { until, laggards, .. }
            if !laggards.is_empty() && until.is_none_or(|until| until <= now))
    }

    fn aim(&self) -> &'static str {
        match self {
            Self::Waiting { phase: Phase::Stable, .. } => {
                "a rotation begins when every proxy has the current bundle"
            }
            Self::Waiting { phase: Phase::Staged, .. } => "the new root signs when every proxy trusts it",
            Self::Waiting { phase: Phase::Signing, .. } => {
                "the old root drains when every proxy has a certificate of the new one"
            }
            _ => {
                "the old root goes when no connection stands on it any more, or ten minutes after the last certificate of it"
            }
        }
    }
}

pub(super) fn listed(laggards: &[Laggard]) -> String {
    let names: Vec<String> = laggards.iter().take(NAMED).map(ToString::to_string).collect();
    let names = names.join(", ");
    if laggards.len() > NAMED { format!("{names} and {} more", laggards.len() - NAMED) } else { names }
}

fn date(at: SystemTime) -> String {
    let whole = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let at = time::OffsetDateTime::from(SystemTime::UNIX_EPOCH + Duration::from_secs(whole));
    let (date, time) = (at.date(), at.time());
    format!("{date} {:02}:{:02}:{:02} UTC", time.hour(), time.minute(), time.second())
}
