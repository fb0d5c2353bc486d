//! Objects of one kind, followed for ever: listed, then watched from there on; asked for anew whenever a watch ends,
//! fails or falls silent. Knows nothing of what is done with them.
//!
//! Guarantees, which kube's own `watcher` does not give: a connection that died without a word is left within
//! half a minute, also while a watch is being opened; after the API server came back a watch is open within [`LONGEST`]
//! and a request; an API server that was set back to an older state is listed anew (a watch that is asked for from the
//! future fails for ever); and [`Heard::Alive`] tells a quiet watch from a stuck one.

use std::{convert::Infallible, fmt::Debug, time::Duration};

use futures::StreamExt;
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
    core::Status,
    runtime::watcher::Event,
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

/// The API server ends a watch after so many seconds.
const ENDS: u32 = 20;
/// A watch that has not even ended by then is dead. With one more attempt that fails this is well within a minute.
const SILENT: Duration = Duration::from_secs(25);
/// A watch is open, and a page is there, within these.
const OPEN: Duration = Duration::from_secs(5);
const PAGE: Duration = Duration::from_secs(20);
/// Objects on a page.
const PAGE_SIZE: u32 = 500;
/// Pauses after failures: at random up to a bound that doubles from the first to the longest.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(2);
/// A watch that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(5);

/// What came of following.
#[derive(Debug)]
pub enum Heard<K> {
    /// A change, or part of a list: between `Init` and `InitDone` the list is not complete.
    Event(Event<K>),
    /// Nothing changed, and the API server was there to say so.
    Alive,
    /// It cannot be followed just now; what is known is what was.
    Trouble(String),
    /// As before: it was tried again.
    StillTrouble,
}

/// A client for the API server that leaves dead connections, also those that are kept for later.
pub fn client(mut config: Config) -> kube::Result<Client> {
    config.connect_timeout = Some(OPEN);
    config.read_timeout = Some(SILENT + OPEN);
    config.reset_reader_on_write = true;
    // Whoever asks has pauses of his own; kube's would hide an answer for minutes.
    config.default_retry = false;
    Client::try_from(config)
}

/// Follows all objects that `selection` selects. Does not return.
pub async fn follow<K>(api: Api<K>, selection: Selection, mut tell: impl FnMut(Heard<K>)) -> Infallible
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let mut pauses = Pauses::default();
    let mut said = None;
    let mut from = None;
    loop {
        let begun = Instant::now();
        let ended = match &mut from {
            None => list(&api, &selection, &mut tell).await.map(|version| from = Some(version)),
            Some(version) => {
                let ended = watch(&api, &selection, version, &mut tell).await;
                if Instant::now().saturating_duration_since(begun) >= GOOD {
                    (pauses, said) = (Pauses::default(), None);
                }
                ended
            }
        };
        match ended {
            Ok(()) => tell(Heard::Alive),
            Err(Ended { problem, position_lost }) => {
                from = from.filter(|_| !position_lost);
                let again = said.as_ref() == Some(&problem);
                tell(if again { Heard::StillTrouble } else { Heard::Trouble(problem.clone()) });
                said = Some(problem);
                sleep(pauses.next()).await;
            }
        }
    }
}

/// Which objects of a kind.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// A label selector.
    pub labels: Option<String>,
    /// A field selector.
    pub fields: Option<String>,
}

struct Ended {
    problem: String,
    /// Where the watch was cannot be returned to: list anew.
    position_lost: bool,
}

async fn list<K>(
    api: &Api<K>,
    selection: &Selection,
    tell: &mut impl FnMut(Heard<K>),
) -> Result<String, Ended>
where
    K: Clone + Debug + DeserializeOwned,
{
    let Selection { labels, fields } = selection.clone();
    let mut params = ListParams { label_selector: labels, field_selector: fields, ..ListParams::default() }
        .limit(PAGE_SIZE);
    tell(Heard::Event(Event::Init));
    loop {
        let page = timeout(PAGE, api.list(&params)).await.map_err(|_| lost("no list came in time"))?;
        let page = page.map_err(|e| lost(&e.to_string()))?;
        page.items.into_iter().for_each(|object| tell(Heard::Event(Event::InitApply(object))));
        match (page.metadata.continue_.filter(|more| !more.is_empty()), page.metadata.resource_version) {
            (Some(more), _) => params.continue_token = Some(more),
            (None, Some(version)) if !version.is_empty() => {
                tell(Heard::Event(Event::InitDone));
                return Ok(version);
            }
            (None, _) => return Err(lost("a list came without resourceVersion")),
        }
    }
}

/// One watch until it ends; `version` follows what it said.
async fn watch<K>(
    api: &Api<K>,
    selection: &Selection,
    version: &mut String,
    tell: &mut impl FnMut(Heard<K>),
) -> Result<(), Ended>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let Selection { labels, fields } = selection.clone();
    let params = WatchParams { label_selector: labels, field_selector: fields, ..WatchParams::default() }
        .timeout(ENDS);
    let begun = Instant::now();
    let opened = timeout(OPEN, api.watch(&params, version)).await;
    let opened = opened.map_err(|_| ended("a watch was not opened in time"))?;
    let mut events = Box::pin(opened.map_err(|e| Ended::of(&e))?);
    tell(Heard::Alive);
    loop {
        let next = timeout(SILENT, events.next()).await;
        let next = next.map_err(|_| ended("a watch neither said anything nor ended in time"))?;
        match next {
            Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                version.clone_from(&version_of(&object)?);
                tell(Heard::Event(Event::Apply(object)));
            }
            Some(Ok(WatchEvent::Deleted(object))) => {
                version.clone_from(&version_of(&object)?);
                tell(Heard::Event(Event::Delete(object)));
            }
            Some(Ok(WatchEvent::Bookmark(mark))) => {
                *version = mark.metadata.resource_version;
                tell(Heard::Alive);
            }
            Some(Ok(WatchEvent::Error(status))) => return Err(Ended::said(&status)),
            // One object that cannot be read must not hide those after it. (Any JSON makes a status for kube: an empty one.)
            Some(Err(kube::Error::SerdeError(_))) => tell(Heard::Trouble("an object cannot be read".into())),
            Some(Err(kube::Error::Api(status))) if status.code == 0 => {
                tell(Heard::Trouble("an object cannot be read".into()));
            }
            Some(Err(e)) => return Err(Ended::of(&e)),
            None if Instant::now().saturating_duration_since(begun) < Duration::from_secs(1) => {
                return Err(ended("a watch ended as soon as it was open"));
            }
            None => return Ok(()),
        }
    }
}

fn version_of(object: &impl ResourceExt) -> Result<String, Ended> {
    object.resource_version().ok_or_else(|| lost("an object came without resourceVersion"))
}

fn ended(problem: &str) -> Ended {
    Ended { problem: problem.into(), position_lost: false }
}

fn lost(problem: &str) -> Ended {
    Ended { problem: problem.into(), position_lost: true }
}

impl Ended {
    fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::said(status),
            other => ended(&other.to_string()),
        }
    }

    /// 410: what happened since is forgotten. 504: it has not happened yet (an older state was restored). 400: it is
    /// no version of this server's.
    fn said(status: &Status) -> Self {
        let position_lost = matches!(status.code, 400 | 410 | 504);
        Self { problem: format!("{} ({})", status.message, status.code), position_lost }
    }
}

/// See [`FIRST`].
#[derive(Debug, Default)]
struct Pauses {
    failures: u32,
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures += 1;
        bound.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
