//! Who this process is and whom it trusts, replaced while connections live.
//!
//! One immutable state behind an `ArcSwap`: a handshake takes it once and never waits for an update. TLS
//! configurations are built at each swap, not per connection. Knows nothing of where leaf and bundle come from.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use byrnie_model::{SpiffeId, TrustDomain};
use parking_lot::Mutex;
use rustls::{
    ClientConfig, ServerConfig,
    time_provider::{DefaultTimeProvider, TimeProvider},
};
use rustls_pki_types::{ServerName, UnixTime};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    bundle::{Anchors, BundleError, RootId, TrustBundle},
    handshake::{self, Accepted, Alpn, Connected, HandshakeError, Side, Standing},
    leaf::{Leaf, LeafError},
    tls,
    verifier::PeerVerifier,
    verify::{CertificateFault, Role, Verified, verify},
};

/// How long a handshake may take.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// The name in each ClientHello (SNI). Who the server is says its certificate.
pub const SERVER_NAME: &str = "byrnie";

/// A handle; clones share the same state.
#[derive(Clone)]
pub struct Identity(Arc<Shared>);

/// There is nothing to show to a peer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NotReady {
    /// Not yet.
    #[error("no certificate yet; check that the operator's identity service can be reached")]
    NoLeaf,
    /// No longer.
    #[error("our own certificate has expired; check that the operator's identity service can be reached")]
    Expired,
}

struct Shared {
    trust_domain: TrustDomain,
    clock: Arc<dyn TimeProvider>,
    state: ArcSwap<State>,
    /// Held while a new state is made from the old one; never by a handshake.
    writer: Mutex<()>,
}

#[derive(Default)]
struct State {
    trust: Option<Trust>,
    own: Option<Own>,
}

#[derive(Clone)]
struct Trust {
    bundle: Arc<TrustBundle>,
    anchors: Anchors,
}

struct Own {
    leaf: Arc<Leaf>,
    root: RootId,
    /// What the configurations verify by.
    anchors: Anchors,
    server: Arc<ServerConfig>,
    /// By position in [`Alpn::ALL`].
    clients: [Arc<ClientConfig>; Alpn::ALL.len()],
}

impl Identity {
    /// Nobody yet, in this trust domain.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self::with_clock(trust_domain, Arc::new(DefaultTimeProvider))
    }

    /// As [`Self::new`], with a clock to verify by.
    pub fn with_clock(trust_domain: TrustDomain, clock: Arc<dyn TimeProvider>) -> Self {
        Self(Arc::new(Shared { trust_domain, clock, state: ArcSwap::default(), writer: Mutex::new(()) }))
    }

    /// The trust domain that this process belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// Replaces the roots for all handshakes from now on; `false` when a higher epoch is installed already.
    pub fn install_bundle(&self, bundle: TrustBundle) -> Result<bool, BundleError> {
        let anchors = Anchors::new(&bundle)?;
        let _writer = self.0.writer.lock();
        let state = self.0.state.load();
        if state.trust.as_ref().is_some_and(|t| t.bundle.epoch > bundle.epoch) {
            return Ok(false);
        }
        let trust = Trust { bundle: Arc::new(bundle), anchors };
        let own = state.own.as_ref().map(|own| self.own(own.leaf.clone(), own.root, &trust.anchors));
        self.0.state.store(Arc::new(State { trust: Some(trust), own }));
        Ok(true)
    }

    /// Presents this leaf in all handshakes from now on. Its roots must be in the installed bundle: bundle first, then
    /// leaf.
    pub fn install_leaf(&self, mut leaf: Leaf) -> Result<(), LeafError> {
        if leaf.id.trust_domain() != self.0.trust_domain.as_str() {
            return Err(LeafError::OtherTrustDomain {
                expected: self.0.trust_domain.clone(),
                found: leaf.id,
            });
        }
        let _writer = self.0.writer.lock();
        let trust = self.0.state.load().trust.clone().ok_or(LeafError::NoBundle)?;
        let verified = self.verify(&leaf, &trust)?;
        leaf.issuer = Some(verified.issuer);
        let own = Some(self.own(Arc::new(leaf), verified.root, &trust.anchors));
        self.0.state.store(Arc::new(State { trust: Some(trust), own }));
        Ok(())
    }

    /// [`crate::spki_sha256`] of the authority that signed this leaf, if the installed bundle vouches for it.
    pub fn issuer_of(&self, leaf: &Leaf) -> Result<[u8; 32], LeafError> {
        let trust = self.0.state.load().trust.clone().ok_or(LeafError::NoBundle)?;
        Ok(self.verify(leaf, &trust)?.issuer)
    }

    fn verify(&self, leaf: &Leaf, trust: &Trust) -> Result<Verified, LeafError> {
        let now = self.0.clock.current_time().ok_or(CertificateFault::NotYetValid)?;
        let (first, intermediates) = leaf.chain.split_first().ok_or(LeafError::Empty)?;
        verify(first, intermediates, &trust.anchors, Role::Server, now)?;
        Ok(verify(first, intermediates, &trust.anchors, Role::Client, now)?)
    }

    /// What is presented now.
    pub fn leaf(&self) -> Option<Arc<Leaf>> {
        self.0.state.load().own.as_ref().map(|own| own.leaf.clone())
    }

    /// What is trusted now.
    pub fn bundle(&self) -> Option<Arc<TrustBundle>> {
        self.0.state.load().trust.as_ref().map(|trust| trust.bundle.clone())
    }

    /// Whether handshakes can succeed: there is a leaf, and it has not expired.
    pub fn ready(&self) -> bool {
        self.with_own(|_| ()).is_ok()
    }

    /// The root of what is presented now.
    pub fn root(&self) -> Option<RootId> {
        self.0.state.load().own.as_ref().map(|own| own.root)
    }

    /// Whether all that an open connection stands on is still trusted.
    pub fn still_trusts(&self, standing: &Standing) -> bool {
        let state = self.0.state.load();
        let has = |root| state.trust.as_ref().is_some_and(|trust| trust.anchors.has(root));
        has(&standing.own) && has(&standing.peer)
    }

    /// Accepts a mesh connection: mutual TLS, within [`HANDSHAKE_LIMIT`].
    pub async fn accept<IO>(&self, io: IO) -> Result<Accepted<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let (config, mine) = self.with_own(|own| (own.server.clone(), own.mine()))?;
        let side = Side::Caller;
        let stream = match timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(config).accept(io)).await {
            Err(_) => return Err(HandshakeError::Timeout(side)),
            Ok(result) => result.map_err(|error| HandshakeError::from_io(side.clone(), error))?,
        };
        let connection = stream.get_ref().1;
        let alpn = handshake::alpn(&side, connection.alpn_protocol())?;
        let (peer, root) =
            handshake::peer(&side, connection.peer_certificates(), &mine.anchors, self.now()?)?;
        let standing = Standing { own: mine.root, peer: root };
        Ok(Accepted { peer: peer.id, alpn, not_after: peer.not_after.min(mine.not_after), standing, stream })
    }

    /// Opens a mesh connection to exactly this peer: mutual TLS, within [`HANDSHAKE_LIMIT`].
    ///
    /// The expected id is compared here, after the handshake, rather than in a verifier of its own per connection: the
    /// configurations stay shared, and nothing is lost, because the stream is not handed out (and so not a byte
    /// of the application written) before the comparison. What a wrong peer of the same mesh does see is our
    /// certificate, which it may see anyway whenever we call it.
    pub async fn connect<IO>(
        &self,
        io: IO,
        expected: &SpiffeId,
        alpn: Alpn,
    ) -> Result<Connected<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let (config, mine) = self.with_own(|own| (own.client(alpn).clone(), own.mine()))?;
        let side = Side::Server(expected.clone());
        let stream =
            match timeout(HANDSHAKE_LIMIT, TlsConnector::from(config).connect(server_name(), io)).await {
                Err(_) => return Err(HandshakeError::Timeout(side)),
                Ok(result) => result.map_err(|error| HandshakeError::from_io(side.clone(), error))?,
            };
        let connection = stream.get_ref().1;
        let (peer, root) =
            handshake::peer(&side, connection.peer_certificates(), &mine.anchors, self.now()?)?;
        if peer.id != *expected {
            let fault = CertificateFault::OtherPeer { expected: expected.clone(), found: peer.id };
            return Err(HandshakeError::Certificate(side, fault));
        }
        let spoken = handshake::alpn(&side, connection.alpn_protocol())?;
        if !alpn.offers().contains(&spoken) {
            return Err(HandshakeError::Alpn(side));
        }
        let standing = Standing { own: mine.root, peer: root };
        Ok(Connected { alpn: spoken, not_after: peer.not_after.min(mine.not_after), standing, stream })
    }

    /// A configuration for the control plane's own servers: mutual TLS. Ask again for each connection, since it does
    /// not follow later changes. [`crate::peer_of`] reads the peer afterwards.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, NotReady> {
        let (leaf, anchors) = self.current()?;
        Ok(tls::server(Some(Arc::new(PeerVerifier::any(anchors))), &leaf.certified, alpn, &self.0.clock))
    }

    /// As [`Self::server_config`], for callers that have no certificate yet.
    pub fn server_without_client_auth(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, NotReady> {
        let (leaf, _) = self.current()?;
        Ok(tls::server(None, &leaf.certified, alpn, &self.0.clock))
    }

    /// A configuration for calls to the control plane: mutual TLS, and no server but the expected one is accepted.
    /// Ask again for each connection.
    pub fn client_config(&self, expected: &SpiffeId, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, NotReady> {
        let (leaf, anchors) = self.current()?;
        let verifier = Arc::new(PeerVerifier::only(anchors, expected.clone()));
        Ok(tls::client(verifier, Some(&leaf.certified), alpn, &self.0.clock))
    }

    /// A configuration for the first call, without a certificate: no server but the expected one is accepted, by the
    /// roots of a bundle that need not be installed.
    pub fn client_without_certificate(
        &self,
        bundle: &TrustBundle,
        expected: &SpiffeId,
        alpn: &[&[u8]],
    ) -> Result<Arc<ClientConfig>, BundleError> {
        let verifier = Arc::new(PeerVerifier::only(Anchors::new(bundle)?, expected.clone()));
        Ok(tls::client(verifier, None, alpn, &self.0.clock))
    }

    fn own(&self, leaf: Arc<Leaf>, root: RootId, anchors: &Anchors) -> Own {
        let verifier = Arc::new(PeerVerifier::any(anchors.clone()));
        let names = Alpn::ALL.map(Alpn::as_bytes);
        let server = tls::server(Some(verifier.clone()), &leaf.certified, &names, &self.0.clock);
        let clients = Alpn::ALL.map(|alpn| {
            let names: Vec<&[u8]> = alpn.offers().iter().map(|alpn| alpn.as_bytes()).collect();
            tls::client(verifier.clone(), Some(&leaf.certified), &names, &self.0.clock)
        });
        Own { leaf, root, anchors: anchors.clone(), server, clients }
    }

    fn now(&self) -> Result<UnixTime, NotReady> {
        self.0.clock.current_time().ok_or(NotReady::Expired)
    }

    fn with_own<T>(&self, take: impl FnOnce(&Own) -> T) -> Result<T, NotReady> {
        let state = self.0.state.load();
        let own = state.own.as_ref().ok_or(NotReady::NoLeaf)?;
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(self.now()?.as_secs());
        if now > own.leaf.not_after {
            return Err(NotReady::Expired);
        }
        Ok(take(own))
    }

    fn current(&self) -> Result<(Arc<Leaf>, Anchors), NotReady> {
        let leaf = self.with_own(|own| own.leaf.clone())?;
        let anchors = self.0.state.load().trust.as_ref().map(|trust| trust.anchors.clone());
        Ok((leaf, anchors.ok_or(NotReady::NoLeaf)?))
    }
}

/// What a connection takes from [`Own`] besides its configuration.
struct Mine {
    not_after: SystemTime,
    root: RootId,
    anchors: Anchors,
}

impl Own {
    fn mine(&self) -> Mine {
        Mine { not_after: self.leaf.not_after, root: self.root, anchors: self.anchors.clone() }
    }

    fn client(&self, alpn: Alpn) -> &Arc<ClientConfig> {
        let [http2, http1, confirmed_tcp, tcp] = &self.clients;
        match alpn {
            Alpn::Http2 => http2,
            Alpn::Http1 => http1,
            Alpn::ConfirmedTcp => confirmed_tcp,
            Alpn::Tcp => tcp,
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("trust_domain", &self.0.trust_domain)
            .field("leaf", &self.leaf())
            .field("epoch", &self.bundle().map(|bundle| bundle.epoch))
            .finish()
    }
}

/// [`SERVER_NAME`] as rustls wants it.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("a DNS label")
}
