//! Byrnie's data plane: one small proxy beside every pod.

pub mod access_log;
pub mod drain;
pub mod metrics;
pub mod original_destination;
