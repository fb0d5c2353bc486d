//! Peers over real sockets: who is let in, who is not, and what changes while connections live.

#![allow(clippy::unwrap_used, clippy::panic)] // as in unit tests

mod authority;
mod control_plane;
mod hostile;
mod lifecycle;
mod raw;
mod refusal;
