//! The data path against real sockets: two proxies with mutual TLS between them, without Kubernetes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should say where")]

mod apps;
mod federation;
mod floods;
mod http1;
mod http2;
mod limits;
mod mirror;
mod opaque;
mod policy;
mod resilience;
mod rig;
mod routing;
mod trust;
