//! Byrnie's data plane: one small proxy beside every pod.
//!
//! A request's way, one file each: `worker` (accepts) -> `original_destination` -> `outbound` -> `detect` ->
//! `http_proxy` (front door) -> `destination` (route) -> `retry` -> `balance` -> `pool` -> `dial` (mTLS) | the peer's
//! `worker` -> `inbound` (identity, authorization) -> `pool` -> the application.

pub mod access_log;
pub mod activity;
pub mod admin;
pub mod args;
pub mod authorize;
pub mod await_ready;
pub mod baggage;
pub mod balance;
pub mod body;
pub mod bootstrap;
pub mod breaker;
pub mod certificate;
pub mod client_hello;
pub mod control;
pub mod cork;
pub mod deadline;
pub mod destination;
pub mod detect;
pub mod dial;
pub mod drain;
pub mod exchange;
pub mod faults;
pub mod forward;
pub mod forward_proxy;
pub mod front_door;
pub mod hash;
pub mod headers;
pub mod hosts;
pub mod http1_guard;
pub mod http_proxy;
pub mod inbound;
pub mod init;
pub mod limiter;
pub mod linger;
pub mod listener;
pub mod load;
pub mod metrics;
pub mod mirror;
pub mod opaque;
pub mod original_destination;
pub mod outbound;
pub mod pace;
pub mod passage;
pub mod pool;
pub mod probe;
pub mod quota;
pub mod redirect;
pub mod reject;
pub mod retry;
pub mod retry_budget;
pub mod run;
pub mod said;
pub mod sips;
pub mod standalone;
pub mod standing;
pub mod state;
pub mod stream;
pub mod template;
pub mod tie;
pub mod upgrade;
pub mod verdict;
pub mod worker;

mod backoff;
mod control_channel;
