//! One original destination as a worker sees it: its routes, and a balancer for each of its backends.
//!
//! Owns what must survive an update: connections, latencies, the retry budget. Knows nothing of messages.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use byrnie_model::{self as model, HttpRequest, Protocol, Route, Timeouts};
use tokio::time::Instant;

use crate::{
    balance::Balancer,
    metrics::{DestinationMetrics, Direction, label},
    pool::Pool,
    reject::{self, Reject},
    retry::{Budget, Endpoints},
    state::Slot,
    worker::Worker,
};

/// How long a connection waits for the first answer about its destination.
const DISCOVERY_LIMIT: Duration = Duration::from_secs(3);

/// An original destination, over all its versions.
#[derive(Debug)]
pub struct Destination {
    slot: Arc<Slot>,
    version: Cell<u64>,
    resolved: RefCell<Option<Rc<Resolved>>>,
    used: Cell<Instant>,
    /// What may be sent again.
    pub budget: Budget,
}

/// One version of a destination.
#[derive(Debug)]
pub struct Resolved {
    /// What the operator said.
    pub model: Arc<model::Destination>,
    /// Counters of the destination as it was dialled.
    pub metrics: DestinationMetrics,
    backends: Vec<Backend>,
}

/// A backend with its endpoints.
#[derive(Clone, Debug)]
pub struct Backend {
    name: String,
    /// Chooses among the endpoints.
    pub balancer: Rc<Balancer>,
    /// Counters of the backend.
    pub metrics: DestinationMetrics,
}

impl Destination {
    /// A destination of which nothing is known yet.
    pub fn new(slot: Arc<Slot>) -> Self {
        let version = Cell::new(u64::MAX);
        Self {
            slot,
            version,
            resolved: RefCell::default(),
            used: Cell::new(Instant::now()),
            budget: Budget::default(),
        }
    }

    /// The latest version, waiting for the first one.
    pub async fn resolve(&self, worker: &Worker) -> Option<Rc<Resolved>> {
        self.used.set(Instant::now());
        if let Some(resolved) = self.latest(worker) {
            return Some(resolved);
        }
        self.slot.wait(DISCOVERY_LIMIT).await?;
        self.latest(worker)
    }

    /// Ends connections that are idle or whose endpoint is gone; whether the destination was in use lately.
    pub fn sweep(&self, worker: &Worker, unused: Duration) -> bool {
        if let Some(resolved) = self.latest(worker) {
            for backend in &resolved.backends {
                backend.balancer.sweep(worker);
            }
        }
        let recent = Instant::now().saturating_duration_since(self.used.get()) < unused;
        if recent {
            self.slot.touch();
        }
        recent
    }

    /// Where a request to one of its backends may go. A pod by its own address stays where it is.
    pub fn endpoints<'a>(&'a self, resolved: &Resolved, backend: &'a Backend) -> Endpoints<'a> {
        let changes = matches!(&*resolved.model, model::Destination::Service(_));
        let destination = changes.then_some(self);
        Endpoints { balancer: &backend.balancer, budget: Some(&self.budget), destination }
    }

    /// Takes over the endpoints that have become known since.
    pub fn refresh(&self, worker: &Worker) {
        self.latest(worker);
    }

    fn latest(&self, worker: &Worker) -> Option<Rc<Resolved>> {
        let version = self.slot.version();
        if version != self.version.get() {
            let model = self.slot.load()?;
            self.version.set(version);
            let before = self.resolved.take();
            *self.resolved.borrow_mut() = Some(Rc::new(Resolved::new(model, before.as_deref(), worker)));
        }
        self.resolved.borrow().clone()
    }
}

impl Resolved {
    fn new(model: Arc<model::Destination>, before: Option<&Self>, worker: &Worker) -> Self {
        let metrics = worker.shared.metrics.destination(Direction::Outbound, &label(&model));
        let backend = |name: String, endpoints: &[model::Endpoint]| {
            let known = before.and_then(|before| before.backends.iter().find(|b| b.name == name).cloned());
            let backend = known.unwrap_or_else(|| Backend {
                metrics: worker.shared.metrics.destination(Direction::Outbound, &name),
                balancer: Rc::default(),
                name,
            });
            backend.balancer.update(endpoints, Pool::new);
            backend
        };
        let backends = match &*model {
            model::Destination::Service(service) => {
                service.backends.iter().map(|b| backend(b.name.to_string(), &b.endpoints)).collect()
            }
            model::Destination::Pod { endpoint, .. } => {
                vec![backend("pod".to_owned(), std::slice::from_ref(endpoint))]
            }
            model::Destination::Passthrough => Vec::new(),
        };
        Self { model, metrics, backends }
    }

    /// What is spoken, as far as it was declared.
    pub fn protocol(&self) -> Protocol {
        match &*self.model {
            model::Destination::Service(service) => service.protocol,
            model::Destination::Pod { protocol, .. } => *protocol,
            model::Destination::Passthrough => Protocol::Opaque,
        }
    }

    /// Whether bytes pass unchanged to where they were going.
    pub fn is_passthrough(&self) -> bool {
        matches!(&*self.model, model::Destination::Passthrough)
    }

    /// The backend for one request, or for one connection that is not HTTP.
    pub fn choose(&self, http: Option<&HttpRequest<'_>>) -> Result<(&Backend, Timeouts), Reject> {
        let service = match &*self.model {
            model::Destination::Service(service) => service,
            model::Destination::Pod { timeouts, .. } => return Ok((&self.backends[0], *timeouts)),
            model::Destination::Passthrough => return Err(reject::NO_ENDPOINTS),
        };
        let route: Option<&Route> = match http {
            Some(request) => service.route(request),
            None => service.opaque_route(),
        };
        let route = route.ok_or(reject::NO_ROUTE)?;
        let usable = |index: usize| self.backends.get(index).is_some_and(|b| !b.balancer.is_empty());
        let index = route.choose(fastrand::u64(..), usable).ok_or(reject::NO_ENDPOINTS)?;
        Ok((&self.backends[index], route.timeouts))
    }
}
