//! Copies of requests to Services in trial, as a route says: sent when the caller's own answer has begun, and whatever
//! becomes of them is nobody's business but the metrics'.
//!
//! Owns which requests are copied, how many copies there may be at a time, and how long they take. How a request is sent is
//! [`retry`]'s. Nothing waits for a copy, the end of the process neither.

use std::{cell::Cell, rc::Rc, time::Duration};

use byrnie_model as model;
use tokio::{task::spawn_local, time::Instant};

use crate::{
    balance::Balancer,
    destination::Backend,
    metrics::DestinationMetrics,
    retry::{self, Endpoints, Limits},
    said,
    template::Template,
    worker::Worker,
};

/// Copies on their way to one backend at a time: with 64 KiB of body each, those to a Service that hangs take 4 MiB.
const MAX_COPIES: usize = 64;
/// A copy takes no longer, and no longer than the request was given.
const LIMIT: Duration = Duration::from_secs(10);

/// Its answer has begun, whatever it says.
const ANSWERED: &str = "answered";
/// There was no answer.
const FAILED: &str = "failed";
/// Too many were on their way.
const DROPPED: &str = "dropped";
/// It could not be copied: a long body or one that was still coming in, an upgrade, no HTTP.
const UNMIRRORED: &str = "unmirrored";

/// Who gets copies of a route's requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mirrors<'a> {
    /// Whose share is how large.
    pub shares: &'a [model::Mirror],
    /// What those point into.
    pub backends: &'a [Backend],
}

/// A copy's place among those that are on their way to a backend.
#[derive(Debug)]
struct Place {
    balancer: Rc<Balancer>,
    metrics: DestinationMetrics,
    copies: Rc<Cell<usize>>,
}

impl<'a> Mirrors<'a> {
    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    /// Sends copies of a request that an application has seen, to which this much time was given.
    pub fn copy(self, worker: &Rc<Worker>, template: Template, given: Option<Duration>) {
        let places: Vec<Place> = self.hit().filter_map(Place::among).collect();
        if places.is_empty() {
            return;
        }
        let Some(mut copy) = template.into_copy() else {
            return places.iter().for_each(|place| place.metrics.mirrored(UNMIRRORED));
        };
        said::mark_copy(copy.headers_mut());
        let copy = Rc::new(copy);
        for place in places {
            spawn_local(place.send(worker.clone(), copy.clone(), given));
        }
    }

    /// What there is cannot be copied.
    pub fn pass_over(self) {
        self.hit().for_each(|backend| backend.metrics.mirrored(UNMIRRORED));
    }

    /// Whose turn it is, by chance.
    fn hit(self) -> impl Iterator<Item = &'a Backend> {
        let hit = |mirror: &&model::Mirror| fastrand::u32(..100) < mirror.percent;
        self.shares.iter().filter(hit).filter_map(move |mirror| self.backends.get(mirror.backend))
    }
}

impl Place {
    fn among(backend: &Backend) -> Option<Self> {
        if backend.copies.get() >= MAX_COPIES {
            backend.metrics.mirrored(DROPPED);
            return None;
        }
        backend.copies.set(backend.copies.get() + 1);
        Some(Self {
            balancer: backend.balancer.clone(),
            metrics: backend.metrics.clone(),
            copies: backend.copies.clone(),
        })
    }

    async fn send(self, worker: Rc<Worker>, copy: Rc<Template>, given: Option<Duration>) {
        let limit = given.map_or(LIMIT, |given| given.min(LIMIT));
        let limits = Limits {
            one_try: None,
            deadline: Some(Instant::now() + limit),
            // whoever hangs for all of our time is to blame; not whom a caller gave less
            is_own: limit == LIMIT,
        };
        let endpoints = Endpoints { balancer: &self.balancer, again: None, destination: None, key: None };
        match retry::send(&worker, endpoints, limits, &self.metrics, &copy).await {
            Ok(answer) => {
                answer.lease.discard(answer.response);
                self.metrics.mirrored(ANSWERED);
            }
            Err(_) => self.metrics.mirrored(FAILED),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.copies.set(self.copies.get() - 1);
    }
}
