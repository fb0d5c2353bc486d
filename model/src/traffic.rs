//! How calls to a Service are made: retries and their budget, circuit breaking, balancing.
//!
//! Plain data; [`Traffic::default`] is what holds where no policy says anything. Time limits are [`crate::Timeouts`].

use std::time::Duration;

use http::{HeaderName, Method};

/// How a caller's proxy treats one Service.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Traffic {
    /// What is sent again.
    pub retry: Retry,
    /// How much of that, over all requests.
    pub retry_budget: RetryBudget,
    /// When an endpoint gets no requests for a while.
    pub circuit_breaker: CircuitBreaker,
    /// Which endpoint is next.
    pub load_balancing: LoadBalancing,
    /// Whether that is one of the caller's own zone, as long as those are well and no slower than others.
    pub prefer_zone: bool,
}

/// What is sent again after an application may have seen it.
///
/// What no application has seen (no connection, a refused stream) is sent again whatever this says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often beyond the first time; 0: never.
    pub attempts: u32,
    /// Statuses of HTTP after which it is done, 500 to 599.
    pub statuses: Vec<u16>,
    /// Codes of gRPC after which it is done, 1 to 16.
    pub grpc_codes: Vec<u8>,
    /// Methods that may be sent again. gRPC's own POST is covered by its codes.
    pub methods: Vec<Method>,
    /// Pause before the first; doubles each time; give or take half.
    pub backoff: Duration,
}

/// A share of the requests, and at least a number per second; what is not used is kept for ten seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Percent of the requests, 0 to 100.
    pub percent: u32,
    /// At least so many per second, for destinations with few requests.
    pub min_per_second: u32,
}

/// When an endpoint gets no requests for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// So many failures in a row; 0: a row of failures ejects nobody.
    pub consecutive_failures: u32,
    /// A share of successes below this many percent over ten seconds; 0: the share ejects nobody.
    pub success_percent: u32,
    /// Of at least so many requests.
    pub min_requests: u32,
    /// Percent of a backend's endpoints that may be out at a time for failing, 0 to 100. Endpoints that take no
    /// connection are not counted: nobody is helped by trying them.
    pub max_ejection_percent: u32,
    /// How long the first time; doubles with each probe that fails.
    pub base_ejection: Duration,
    /// How long at most.
    pub max_ejection: Duration,
}

/// Which endpoint is next.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum LoadBalancing {
    /// The better of two random ones by latency (a peak counts at once) and requests in flight.
    #[default]
    PeakEwma,
    /// The one of two random ones with fewer requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// The same one for the same key, for as long as it is there and well (rendezvous hashing).
    ConsistentHash(HashKey),
}

/// What of a request is hashed. Requests without it are balanced by [`LoadBalancing::PeakEwma`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// A header's first value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(String),
    /// The caller's address, without port.
    Source,
}

/// What a workload takes of all its callers together; its own proxy sees to it, on each of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Limits {
    /// Whether requests at a time are limited to what is answered about as fast as when there is little to do.
    pub adaptive: bool,
    /// Requests per second, per worker of the proxy.
    pub requests_per_second: Option<u32>,
    /// How many may come at once after a pause; at least 1 where there is a rate.
    pub burst: u32,
}

/// What is done to requests on purpose, to see what becomes of their callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Faults {
    /// Percent of the requests that are sent later, and by how much.
    pub delay: Option<(u32, Duration)>,
    /// Percent of the requests that are answered with a status instead of being sent, 200 to 599.
    pub abort: Option<(u32, u16)>,
}

impl Default for Retry {
    /// RFC 9110 section 9.2.2 names the methods of which twice is the same as once.
    fn default() -> Self {
        Self {
            attempts: 2,
            statuses: Vec::new(),
            grpc_codes: Vec::new(),
            methods: vec![Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE],
            backoff: Duration::from_millis(25),
        }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, min_per_second: 10 }
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            success_percent: 80,
            min_requests: 20,
            max_ejection_percent: 50,
            base_ejection: Duration::from_secs(1),
            max_ejection: Duration::from_mins(1),
        }
    }
}

/// The number of a gRPC status code by its name (`Unavailable`), without OK.
pub fn grpc_code(name: &str) -> Option<u8> {
    let at = GRPC_CODES.iter().position(|code| *code == name)?;
    u8::try_from(at + 1).ok()
}

/// Names of gRPC's status codes, from 1 on.
pub const GRPC_CODES: [&str; 16] = [
    "Cancelled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
