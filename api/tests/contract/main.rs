//! The contract as its two ends see it: what is sent arrives unchanged, or not at all.

#![allow(clippy::unwrap_used, clippy::panic)] // as in unit tests

mod mutation;
mod refusal;
mod roundtrip;
mod values;
mod wire;
