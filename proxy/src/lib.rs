//! Byrnie's data plane: one small proxy beside every pod.

pub mod access_log;
pub mod client_hello;
pub mod drain;
pub mod http1_guard;
pub mod listener;
pub mod metrics;
pub mod original_destination;
pub mod state;
