//! What each proxy must know, as pure functions of the world: no client, no clock, no task.
//!
//! [`world`] holds the cluster as [`facts`]; [`workload`] is the snapshot of one pod, [`destination`] that of one
//! called address. Each snapshot names what it depends on, so that a change recomputes only what it touches. The
//! same facts answer what statuses ask: which policies give way to others, what a split comes to.

pub mod destination;
pub mod facts;
#[cfg(test)]
pub(crate) mod fixture;
pub mod overridden;
pub mod split;
#[cfg(test)]
mod tests;
pub mod workload;
pub mod world;

pub use overridden::{Overridden, overridden};
pub use world::World;
