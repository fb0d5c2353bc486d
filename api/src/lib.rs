//! The gRPC contract between operator and proxy, and its conversion to and from [`byrnie_model`].
//!
//! Owns the wire format and its strictness: a message that lacks something, or says something that this version
//! does not know, is refused as a whole, because a policy that lost a part on the way could widen access.

/// Generated from `proto/byrnie.proto`.
#[allow(clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("byrnie.v1");
}

pub mod decode;
pub mod encode;
pub mod parts;
mod trust;

pub use decode::DecodeError;
pub use trust::Trust;

/// Content that this version of the proxy understands; the operator lists in `required_features` what a resource needs.
pub const FEATURES: &[&str] = &[];
