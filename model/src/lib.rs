//! What the mesh decides with: identities, authorization and routes as plain data, and the pure functions over them.
//!
//! No I/O, no async and nothing of ours below. The proxy enforces with these functions, the webhook validates
//! with them, the CLI explains with them and the tests compare them with an oracle, so that they cannot disagree.

pub mod authorization;
pub mod evaluate;
pub mod names;
pub mod path;
pub mod route;
pub mod spiffe;
pub mod traffic;

pub use authorization::{
    Action, Enforcement, HeaderMatch, HttpMatch, InboundPolicy, Mtls, MtlsMode, PathMatch, Policy, Ports,
    Rule, Source, ValueMatch,
};
pub use evaluate::{Decision, Denial, Grant, HttpRequest, Peer, Request, Verdict, evaluate};
pub use names::{ObjectName, ServicePort};
pub use route::{
    Backend, Destination, Endpoint, Mirror, Protocol, Route, Service, Timeouts, WeightedBackend, Workload,
};
pub use spiffe::{SpiffeId, TrustDomain};
pub use traffic::{CircuitBreaker, Faults, HashKey, Limits, LoadBalancing, Retry, RetryBudget, Traffic};
