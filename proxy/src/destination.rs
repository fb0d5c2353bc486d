//! One original destination as a worker sees it: its routes, and a balancer for each of its backends.
//!
//! Owns what must survive an update: connections, latencies, the retry budget. Knows nothing of messages.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use byrnie_model::{
    self as model, Faults, HashKey, HttpRequest, LoadBalancing, Protocol, Route, Service, Timeouts,
};
use http::{HeaderMap, header};
use tokio::time::Instant;

use crate::{
    baggage,
    balance::Balancer,
    hash,
    metrics::{DestinationMetrics, Direction, label},
    mirror::Mirrors,
    pool::Pool,
    reject::{self, Reject},
    retry::{Again, Endpoints},
    retry_budget::Budget,
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
    /// Copies that are on their way to it.
    pub copies: Rc<Cell<usize>>,
}

/// Where a request goes, and what its route says about it.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// The backend.
    pub backend: &'a Backend,
    /// Time limits.
    pub timeouts: Timeouts,
    /// What is done to it on purpose.
    pub faults: Faults,
    /// Who may get a copy.
    pub mirrors: Mirrors<'a>,
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
        self.used.set(worker.now());
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
    pub fn endpoints<'a>(
        &'a self,
        resolved: &'a Resolved,
        backend: &'a Backend,
        key: Option<u64>,
    ) -> Endpoints<'a> {
        let changes = matches!(&*resolved.model, model::Destination::Service(_));
        let destination = changes.then_some(self);
        let again = resolved.traffic().map(|traffic| Again { traffic, budget: &self.budget });
        Endpoints { balancer: &backend.balancer, again, destination, key }
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
        let workload = worker.shared.workload.load();
        let zone = workload.as_ref().map_or("", |workload| &workload.zone);
        let backend = |name: String, endpoints: &[model::Endpoint], traffic: &model::Traffic| {
            let known = before.and_then(|before| before.backends.iter().find(|b| b.name == name).cloned());
            let backend = known.unwrap_or_else(|| Backend {
                metrics: worker.shared.metrics.destination(Direction::Outbound, &name),
                balancer: Rc::default(),
                copies: Rc::default(),
                name,
            });
            backend.balancer.update(endpoints, traffic, zone, Pool::new);
            backend
        };
        let backends = match &*model {
            model::Destination::Service(service) => {
                let of = |b: &model::Backend| backend(b.name.to_string(), &b.endpoints, &service.traffic);
                service.backends.iter().map(of).collect()
            }
            model::Destination::Pod { endpoint, traffic, .. } => {
                vec![backend("pod".to_owned(), std::slice::from_ref(endpoint), traffic)]
            }
            model::Destination::Passthrough => Vec::new(),
        };
        Self { model, metrics, backends }
    }

    /// How calls are made; `None`: they pass through.
    fn traffic(&self) -> Option<&model::Traffic> {
        match &*self.model {
            model::Destination::Service(service) => Some(&service.traffic),
            model::Destination::Pod { traffic, .. } => Some(traffic),
            model::Destination::Passthrough => None,
        }
    }

    /// What consistent hashing goes by: the same for the same caller, header or cookie.
    pub fn key(&self, http: Option<&HttpRequest<'_>>, client: IpAddr) -> Option<u64> {
        let LoadBalancing::ConsistentHash(by) = &self.traffic()?.load_balancing else { return None };
        let headers = http.map(|request| request.headers);
        match by {
            HashKey::Source => Some(hash::of(client.to_string().as_bytes())),
            HashKey::Header(name) => headers?.get(name).map(|value| hash::of(value.as_bytes())),
            HashKey::Cookie(name) => cookie(headers?, name).map(|value| hash::of(value.as_bytes())),
        }
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
    pub fn choose(&self, http: Option<&HttpRequest<'_>>) -> Result<Chosen<'_>, Reject> {
        let service = match &*self.model {
            model::Destination::Service(service) => service,
            model::Destination::Pod { timeouts, .. } => {
                return Ok(Chosen {
                    backend: &self.backends[0],
                    timeouts: *timeouts,
                    faults: Faults::default(),
                    mirrors: Mirrors::default(),
                });
            }
            model::Destination::Passthrough => return Err(reject::NO_ENDPOINTS),
        };
        let route = match http {
            Some(request) => service.route(request),
            None => service.opaque_route(),
        };
        let route = route.ok_or(reject::NO_ROUTE)?;
        let index = self.asked_for(service, route, http).or_else(|| self.next(route));
        let backend = &self.backends[index.ok_or(reject::NO_ENDPOINTS)?];
        let mirrors = Mirrors { shares: &route.mirrors, backends: &self.backends };
        Ok(Chosen { backend, timeouts: route.timeouts, faults: route.faults, mirrors })
    }

    /// What the request itself asks for, where the policy lets it.
    fn asked_for(&self, service: &Service, route: &Route, http: Option<&HttpRequest<'_>>) -> Option<usize> {
        if route.overrides.is_empty() {
            return None;
        }
        let other = baggage::asked_for(http?.headers, &service.name.service)?;
        let named = |index: &usize| service.backends[*index].name.service.name == other;
        route.overrides.iter().copied().find(named).filter(|index| self.is_usable(*index))
    }

    /// By weight, or who takes over.
    fn next(&self, route: &Route) -> Option<usize> {
        let by_weight = |usable: &dyn Fn(usize) -> bool| route.choose(fastrand::u64(..), usable);
        let usable = |index: usize| self.is_usable(index);
        if route.failover.is_empty() {
            return by_weight(&usable);
        }
        let serves = |index: usize| usable(index) && self.backends[index].balancer.can_serve();
        let other = || route.failover.iter().copied().find(|index| serves(*index));
        // where nobody serves it is the Service's own endpoints that say so
        by_weight(&serves).or_else(other).or_else(|| by_weight(&usable))
    }

    fn is_usable(&self, index: usize) -> bool {
        self.backends.get(index).is_some_and(|backend| !backend.balancer.is_empty())
    }
}

/// A cookie's value (RFC 6265 section 4.2).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find_map(|(key, value)| (key == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("ab=1; b=2;c=3=4"));
        headers.append(header::COOKIE, HeaderValue::from_static("d="));
        let of = |name| cookie(&headers, name);
        assert_eq!(
            (of("ab"), of("b"), of("c"), of("d"), of("a")),
            (Some("1"), Some("2"), Some("3=4"), Some(""), None)
        );
    }
}
