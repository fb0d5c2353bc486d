//! The data path against real sockets: two proxies with mutual TLS between them, without Kubernetes.

mod apps;
mod http1;
mod rig;
