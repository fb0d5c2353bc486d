//! The data path against real sockets: two proxies with mutual TLS between them, without Kubernetes.

mod apps;
mod http1;
mod http2;
mod opaque;
mod policy;
mod rig;
mod routing;
