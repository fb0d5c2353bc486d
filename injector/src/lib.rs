//! The admission webhooks: inject the proxy into pods, validate and convert the mesh's kinds.
//!
//! A pure function from an AdmissionReview to its answer, a serving certificate that renews itself, and the upkeep of
//! the CA bundles that let the API server trust it. Never sees the mesh CA key.

pub mod admission;
pub mod args;
pub mod ca_bundle;
pub mod certificate;
pub mod inject;
pub mod metrics;
pub mod namespace;
pub mod pod_certificates;
pub mod server;
pub mod targets;
pub mod watch;
