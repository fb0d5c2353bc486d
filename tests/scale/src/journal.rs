//! What proxies see and when, on one clock. Proxies write, the measurements read.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, timeout_at},
};

/// How long ago that was.
pub(crate) fn since(then: Instant) -> Duration {
    Instant::now().saturating_duration_since(then)
}

/// Something that a proxy saw.
pub(crate) struct Event {
    pub(crate) proxy: usize,
    pub(crate) at: Instant,
    pub(crate) what: Sight,
}

pub(crate) enum Sight {
    /// A new stream has told everything that was asked for.
    Up,
    /// The stream ended.
    Down,
    /// This change (or a later one) of a Service is in force.
    Change { service: usize, number: u16 },
    /// It does not work: worth saying, and tried again.
    Trouble(String),
}

/// For proxies.
#[derive(Clone)]
pub(crate) struct Journal(UnboundedSender<Event>);

/// For measurements.
pub(crate) struct Events {
    incoming: UnboundedReceiver<Event>,
    up: Vec<bool>,
    trouble: Option<String>,
}

impl Journal {
    pub(crate) fn new() -> (Self, Events) {
        let (sender, incoming) = unbounded_channel();
        (Self(sender), Events { incoming, up: Vec::new(), trouble: None })
    }

    pub(crate) fn note(&self, proxy: usize, what: Sight) {
        // nobody reads any more: the run is over
        let _ = self.0.send(Event { proxy, at: Instant::now(), what });
    }
}

impl Events {
    /// How many proxies there are.
    pub(crate) fn streams(&self) -> usize {
        self.up.len()
    }

    /// How many of them have no complete stream.
    pub(crate) fn down(&self) -> usize {
        self.up.iter().filter(|up| !**up).count()
    }

    /// What a proxy complained of last.
    pub(crate) fn trouble(&self) -> &str {
        self.trouble.as_deref().unwrap_or_default()
    }

    /// The next event until then.
    pub(crate) async fn next(&mut self, until: Instant) -> Option<Event> {
        let event = timeout_at(until, self.incoming.recv()).await.ok()??;
        if event.proxy >= self.up.len() {
            self.up.resize(event.proxy + 1, false);
        }
        match &event.what {
            Sight::Up => self.up[event.proxy] = true,
            Sight::Down => self.up[event.proxy] = false,
            Sight::Change { .. } => {}
            Sight::Trouble(problem) => self.trouble = Some(problem.clone()),
        }
        Some(event)
    }

    /// Waits until so many proxies are complete. How long it took.
    pub(crate) async fn all_up(
        &mut self,
        streams: usize,
        since: Instant,
        patience: Duration,
    ) -> Result<Duration> {
        self.up.resize(streams, false);
        let mut last = since;
        while self.down() > 0 {
            let Some(event) = self.next(since + patience).await else { break };
            last = event.at;
        }
        ensure!(self.down() == 0, "{} of {streams} streams are not up; {}", self.down(), self.trouble());
        Ok(last - since)
    }
}
