//! Plaintext or not, time limits and protocols.

use std::time::Duration;

use byrnie_model::{Mtls, Protocol, Timeouts};

use super::{Traffic, problem, unique};
use crate::{
    duration,
    meshpolicy::{AppProtocol, MtlsSpec, TrafficSpec},
    problem::Findings,
};

/// `None`: not understood.
pub(super) fn mtls(spec: &MtlsSpec, findings: &mut Findings) -> Option<Mtls> {
    let ports: Vec<u16> = spec.ports.iter().map(|p| p.port).collect();
    unique(&ports, "spec.mtls.ports", "port", findings)?;
    Some(Mtls { default: spec.mode, ports: spec.ports.iter().map(|p| (p.port, p.mode)).collect() })
}

/// `None`: not understood.
pub(super) fn compile(spec: &TrafficSpec, findings: &mut Findings) -> Option<Traffic> {
    if spec.timeouts.is_none() && spec.protocols.is_empty() {
        return problem("spec.traffic", "needs at least one of timeouts and protocols", findings);
    }
    let timeouts = spec.timeouts.clone().unwrap_or_default();
    let request = limit(timeouts.request.as_deref(), "spec.traffic.timeouts.request", findings);
    let idle = limit(timeouts.idle.as_deref(), "spec.traffic.timeouts.idle", findings);
    let ports: Vec<u16> = spec.protocols.iter().map(|p| p.port).collect();
    unique(&ports, "spec.traffic.protocols", "port", findings)?;
    Some(Traffic {
        timeouts: Timeouts { request: nonzero(request?), idle: nonzero(idle?) },
        protocols: spec.protocols.iter().map(|p| (p.port, p.protocol.into())).collect(),
    })
}

fn limit(text: Option<&str>, path: &str, findings: &mut Findings) -> Option<Duration> {
    let Some(text) = text else { return Some(Duration::ZERO) };
    duration::parse(text).or_else(|| problem(path, duration::EXPLAINED, findings))
}

fn nonzero(limit: Duration) -> Option<Duration> {
    (!limit.is_zero()).then_some(limit)
}

impl From<AppProtocol> for Protocol {
    fn from(protocol: AppProtocol) -> Self {
        match protocol {
            AppProtocol::Http1 => Self::Http1,
            AppProtocol::Http2 | AppProtocol::Grpc => Self::Http2,
            AppProtocol::Tls => Self::Tls,
            AppProtocol::Opaque => Self::Opaque,
        }
    }
}
