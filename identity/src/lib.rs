//! Who this process is, whom it trusts, and how a mesh connection is made.
//!
//! Keys, certificate requests, trust bundles, the TLS configurations and the two peer verifiers, all replaced while
//! connections live. Does not know where certificates come from, nor what is sent over a connection.

mod bundle;
mod certificate;
mod der;
mod handshake;
mod identity;
mod key;
mod leaf;
mod tls;
mod verifier;
pub mod verify;

pub use bundle::{BundleError, RootId, TrustBundle, spki_sha256};
pub use handshake::{Accepted, Alpn, Connected, HandshakeError, Side, Standing};
pub use identity::{HANDSHAKE_LIMIT, Identity, NotReady, SERVER_NAME, server_name};
pub use key::{KeyError, KeyPair};
pub use leaf::{Leaf, LeafError};
pub use tls::provider;
pub use verify::{CertificateFault, Peer, Role, peer_of};
