//! What a worker listens on. Knows nothing of what is done with a connection.

use std::net::SocketAddr;

use crate::{metrics::Direction, original_destination::Source};

/// One listening address. Every worker binds it (`SO_REUSEPORT`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Calls to the pod, or calls that it makes.
    pub direction: Direction,
    /// Where to listen; an IPv6 address means IPv6 only.
    pub address: SocketAddr,
    /// Where its connections go.
    pub source: Source,
}
