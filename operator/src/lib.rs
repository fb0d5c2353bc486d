//! The control plane: reads the cluster, decides what each proxy must know, issues identities, reports back.
//!
//! `index` decides (pure), `discovery` tells the proxies, `issuance` and `trust` own identities, the leader alone
//! writes (`lease`, `status`, `bundle_config_map`, `cluster_trust_bundle`). Wired together in `main.rs`.

pub mod admin;
pub mod api_call;
pub mod args;
pub mod bundle_config_map;
pub mod cluster_trust_bundle;
pub mod discovery;
pub mod index;
pub mod issuance;
pub mod leader;
pub mod lease;
pub mod metrics;
pub mod rate;
pub mod serve;
pub mod status;
pub mod store;
pub mod tasks;
pub mod trust;
pub mod uninjected;
pub mod watch;
