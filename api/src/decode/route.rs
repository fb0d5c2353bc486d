//! Where calls go: destinations, routes, backends and endpoints.

use std::time::Duration;

use byrnie_model::{Backend, Destination, Endpoint, Mirror, Route, Service, Timeouts, WeightedBackend};

use super::{
    At, DecodeError,
    policy::http_match,
    protocol, service_port, socket_address,
    traffic::{faults, traffic},
};
use crate::v1;

pub(super) fn destination(
    at: At<'_>,
    message: Option<v1::destination::Kind>,
) -> Result<Destination, DecodeError> {
    use v1::destination::Kind;
    match at.field("kind").required(message)? {
        Kind::Service(message) => Ok(Destination::Service(service(at.field("service"), message)?)),
        Kind::Pod(message) => {
            let at = at.field("pod");
            let field = at.field("endpoint");
            Ok(Destination::Pod {
                protocol: protocol(at.field("protocol"), message.protocol)?,
                endpoint: endpoint(field, field.required(message.endpoint)?)?,
                timeouts: timeouts(at.field("timeouts"), message.timeouts)?,
                traffic: traffic(at.field("traffic"), message.traffic)?,
            })
        }
        Kind::Passthrough(v1::Passthrough {}) => Ok(Destination::Passthrough),
    }
}

fn service(at: At<'_>, message: v1::ServiceDestination) -> Result<Service, DecodeError> {
    let backends = at.field("backends").each(message.backends, backend)?;
    let field = at.field("routes");
    let routes = field.each(message.routes, |at, message| route(at, message, backends.len()))?;
    if !routes.last().is_some_and(|last| last.matches.is_empty()) {
        return field.fail("the last route must match everything, so that no request is without one");
    }
    Ok(Service {
        name: service_port(at.field("name"), message.name)?,
        protocol: protocol(at.field("protocol"), message.protocol)?,
        routes,
        backends,
        traffic: traffic(at.field("traffic"), message.traffic)?,
    })
}

fn route(at: At<'_>, message: v1::Route, known: usize) -> Result<Route, DecodeError> {
    let backend = |at: At<'_>, index: u32| match usize::try_from(index) {
        Ok(backend) if backend < known => Ok(backend),
        _ => at.fail(format!("{index} is out of range: there are {known} backends")),
    };
    let backends = at.field("backends").each(message.backends, |at, share| {
        Ok(WeightedBackend { backend: backend(at.field("backend"), share.backend)?, weight: share.weight })
    })?;
    let mirrors = at.field("mirrors").each(message.mirrors, |at, mirror| match mirror.percent {
        percent @ 1..=100 => Ok(Mirror { backend: backend(at.field("backend"), mirror.backend)?, percent }),
        percent => at.field("percent").fail(format!("{percent} is not one of 1 to 100")),
    })?;
    Ok(Route {
        matches: at.field("matches").each(message.matches, http_match)?,
        backends,
        failover: at.field("failover").each(message.failover, backend)?,
        overrides: at.field("overrides").each(message.overrides, backend)?,
        mirrors,
        faults: faults(at.field("faults"), message.faults)?,
        timeouts: timeouts(at.field("timeouts"), message.timeouts)?,
    })
}

fn timeouts(at: At<'_>, message: Option<v1::Timeouts>) -> Result<Timeouts, DecodeError> {
    let v1::Timeouts { request_ms, idle_ms, backend_request_ms } = at.required(message)?;
    let limit = |name, millis| match millis {
        Some(0) => at.field(name).fail("0 ms is no time at all; absent is no limit"),
        limit => Ok(limit.map(Duration::from_millis)),
    };
    Ok(Timeouts {
        request: limit("request_ms", request_ms)?,
        backend_request: limit("backend_request_ms", backend_request_ms)?,
        idle: limit("idle_ms", idle_ms)?,
    })
}

fn backend(at: At<'_>, message: v1::Backend) -> Result<Backend, DecodeError> {
    let endpoints = at.field("endpoints").each(message.endpoints, endpoint)?;
    Ok(Backend { name: service_port(at.field("name"), message.name)?, endpoints: endpoints.into() })
}

fn endpoint(at: At<'_>, message: v1::Endpoint) -> Result<Endpoint, DecodeError> {
    let v1::Endpoint { ip, port, identity, pod_uid, pod_name, zone, weight } = message;
    let identity = match identity.as_str() {
        "" => None,
        id => Some(id.parse().or_else(|error| at.field("identity").fail(error))?),
    };
    let Ok(weight) = u16::try_from(weight.max(1)) else {
        return at.field("weight").fail(format!("{weight} is more than {}", u16::MAX));
    };
    Ok(Endpoint { address: socket_address(at, &ip, port)?, identity, pod_uid, pod_name, zone, weight })
}
