//! The kinds that users write, as Rust types, and what they compile to.
//!
//! MeshPolicy, TrafficSplit and MeshTrust are read here so that reading never fails: what is not understood is
//! kept, named and refused (it never widens access). Pure: no I/O and no clock; the operator, the webhook and
//! the CLI share it, so that they cannot disagree.

pub mod cluster;
pub mod compile;
pub mod convert;
pub mod duration;
pub mod govern;
pub mod manifest;
pub mod meshpolicy;
pub mod meshtrust;
pub mod names;
pub mod problem;
pub mod protocol;
mod quantity;
mod schema;
pub mod section;
pub mod shape;
pub mod status;
pub mod summary;
pub mod traffic;
pub mod trafficsplit;
pub mod validate;

pub use meshpolicy::{MeshPolicy, MeshPolicySpec};
pub use meshtrust::{MeshTrust, MeshTrustSpec};
pub use problem::{Findings, Problem};
pub use section::Section;
pub use trafficsplit::{TrafficSplit, TrafficSplitSpec};
pub use validate::validate;
