//! Where a request goes: one original destination, its routes, their weighted backends and the endpoints behind.
//!
//! TrafficSplit compiles to this, and HTTPRoute can: a [`Route`] is matches, weighted backends and time-outs.
//! Routes bind to the original destination (ClusterIP and port), never to the Host header.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    authorization::{HttpMatch, InboundPolicy},
    evaluate::{HttpRequest, matches_http},
    names::ServicePort,
    spiffe::SpiffeId,
    traffic::{Faults, Limits, Traffic},
};

/// What an application's connection to one address and port means.
#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    /// A port of a Service.
    Service(Service),
    /// A pod that was dialled by its own address (headless Services, StatefulSets).
    Pod {
        /// How to speak to it.
        protocol: Protocol,
        /// The pod.
        endpoint: Endpoint,
        /// Time limits for calls to it.
        timeouts: Timeouts,
        /// How calls to it are made.
        traffic: Traffic,
    },
    /// Neither a Service nor a pod of this cluster: forwarded unchanged.
    Passthrough,
}

/// A Service's port with all that a caller needs to balance, split and authenticate.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Which port of which Service was dialled.
    pub name: ServicePort,
    /// What it speaks.
    pub protocol: Protocol,
    /// Tried in order; the first that matches decides. The last one matches everything.
    pub routes: Vec<Route>,
    /// What [`WeightedBackend::backend`] points into.
    pub backends: Vec<Backend>,
    /// How calls to it are made.
    pub traffic: Traffic,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// Not declared: look at the first bytes, for at most a second.
    #[default]
    Detect,
    /// HTTP/1.1 (and upgrades from it).
    Http1,
    /// HTTP/2 with prior knowledge; gRPC too.
    Http2,
    /// TLS of the application's own: forwarded as it is.
    Tls,
    /// Bytes.
    Opaque,
}

/// Requests that match go to the backends by weight.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Route {
    /// Any may match. Empty: every request.
    pub matches: Vec<HttpMatch>,
    /// Shares; see [`Route::choose`].
    pub backends: Vec<WeightedBackend>,
    /// Indices into [`Service::backends`]: the first of them that can serve does, where no share can.
    pub failover: Vec<usize>,
    /// Indices into [`Service::backends`]: those that a request may ask for by name.
    pub overrides: Vec<usize>,
    /// Who gets copies of the requests besides.
    pub mirrors: Vec<Mirror>,
    /// What is done to requests on purpose.
    pub faults: Faults,
    /// Time limits.
    pub timeouts: Timeouts,
}

/// A share of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightedBackend {
    /// Index into [`Service::backends`].
    pub backend: usize,
    /// Share relative to the other weights; 0 gets nothing.
    pub weight: u32,
}

/// A share of a route's requests is copied; nobody waits for what is answered to a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Index into [`Service::backends`].
    pub backend: usize,
    /// Percent of the requests: 1 to 100.
    pub percent: u32,
}

/// The endpoints of one Service's port. A backend is a leaf: its own splits are not followed.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Which port of which Service.
    pub name: ServicePort,
    /// Ready endpoints.
    pub endpoints: Arc<[Endpoint]>,
}

/// One pod (or bare address) behind a Service's port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Pod address and container port.
    pub address: SocketAddr,
    /// Who must answer. `None`: not meshed, spoken to in plaintext.
    pub identity: Option<SpiffeId>,
    /// UID of the pod; empty for an address that is no pod.
    pub pod_uid: String,
    /// Name of the pod, for logs; empty for an address that is no pod.
    pub pod_name: String,
    /// Topology zone; empty when unknown.
    pub zone: String,
    /// Its share relative to the backend's other endpoints, at least 1.
    pub weight: u16,
}

impl Endpoint {
    /// An address of which nothing else is known.
    pub fn bare(address: SocketAddr) -> Self {
        let (pod_uid, pod_name, zone) = (String::new(), String::new(), String::new());
        Self { address, identity: None, pod_uid, pod_name, zone, weight: 1 }
    }
}

/// Time limits of calls; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// From the request's last header to the response's last byte.
    pub request: Option<Duration>,
    /// From sending the request to one endpoint to the first byte of its response.
    pub backend_request: Option<Duration>,
    /// Without a byte in either direction.
    pub idle: Option<Duration>,
}

/// What a proxy must know about its own pod.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Workload {
    /// Who may call it.
    pub inbound: InboundPolicy,
    /// Declared protocols of container ports; the others are [`Protocol::Detect`].
    pub protocols: Vec<(u16, Protocol)>,
    /// What it takes at a time.
    pub limits: Limits,
    /// Topology zone of the pod; empty when unknown.
    pub zone: String,
}

impl Workload {
    /// What is spoken on one of the pod's ports.
    pub fn protocol(&self, port: u16) -> Protocol {
        self.protocols.iter().find(|(p, _)| *p == port).map_or(Protocol::Detect, |(_, protocol)| *protocol)
    }
}

impl Service {
    /// The first route that matches a request.
    pub fn route(&self, request: &HttpRequest<'_>) -> Option<&Route> {
        self.routes
            .iter()
            .find(|r| r.matches.is_empty() || r.matches.iter().any(|m| matches_http(m, request)))
    }

    /// The route for connections that are not HTTP: the first without a match.
    pub fn opaque_route(&self) -> Option<&Route> {
        self.routes.iter().find(|r| r.matches.is_empty())
    }
}

impl Route {
    /// Picks a backend by weight among those for which `usable` holds; `random` is any uniform number.
    ///
    /// A backend without endpoints gives its share to the others. `None` when no backend has both a weight and
    /// endpoints.
    pub fn choose(&self, random: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let candidates = || self.backends.iter().filter(|b| b.weight > 0 && usable(b.backend));
        let total: u64 = candidates().map(|b| u64::from(b.weight)).sum();
        let mut ticket = random.checked_rem(total)?;
        for candidate in candidates() {
            let weight = u64::from(candidate.weight);
            if ticket < weight {
                return Some(candidate.backend);
            }
            ticket -= weight;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(weights: &[u32]) -> Route {
        let backends =
            weights.iter().enumerate().map(|(backend, &weight)| WeightedBackend { backend, weight });
        Route { backends: backends.collect(), ..Route::default() }
    }

    #[test]
    fn shares_follow_the_weights() {
        let route = route(&[90, 0, 10]);
        let mut counts = [0u32; 3];
        for ticket in 0..1000 {
            counts[route.choose(ticket, |_| true).unwrap()] += 1;
        }
        assert_eq!(counts, [900, 0, 100]);
    }

    #[test]
    fn a_backend_that_cannot_serve_gives_its_share_away() {
        let route = route(&[90, 10]);
        assert!((0..100).all(|ticket| route.choose(ticket, |b| b == 1) == Some(1)));
    }

    #[test]
    fn nothing_to_choose_from_is_none() {
        assert_eq!(route(&[0, 0]).choose(7, |_| true), None);
        assert_eq!(route(&[1]).choose(7, |_| false), None);
        assert_eq!(route(&[]).choose(7, |_| true), None);
    }
}
