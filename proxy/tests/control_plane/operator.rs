//! An operator as a proxy meets it: issues certificates over server TLS, and answers one stream at a time over mutual
//! TLS. What it says is up to the test.

use std::{
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering::SeqCst},
    time::Duration,
};

use byrnie_api::{encode, v1};
use byrnie_identity::{Identity, KeyPair, Leaf, TrustBundle, peer_of, spki_sha256};
use byrnie_model::{SpiffeId, TrustDomain};
use futures::Stream;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData, SanType, SignatureAlgorithm,
};
use rustls_pki_types::CertificateDer;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, Streaming};

const OPERATOR: &str = "spiffe://cluster.local/ns/byrnie-system/sa/byrnie-operator";
pub(crate) const TOKEN: &str = "a-bound-token";

/// A self-made root.
pub(crate) struct Authority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    root: CertificateDer<'static>,
    pem: String,
}

/// Everything about a running operator.
pub(crate) struct Operator {
    pub(crate) state: Arc<State>,
    identity_address: SocketAddr,
    discovery_address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

pub(crate) struct State {
    own: Identity,
    trust: Mutex<Trust>,
    /// Lifetime of what is issued.
    pub(crate) ttl: Mutex<Duration>,
    /// Requests that were refused.
    pub(crate) refused: Mutex<usize>,
    /// Public keys that were certified.
    pub(crate) keys: Mutex<Vec<Vec<u8>>>,
    /// What the proxy said on its streams, in order; streams begin with Hello.
    pub(crate) heard: Mutex<Vec<v1::to_operator::Message>>,
    stream: Mutex<Option<mpsc::Sender<Result<v1::ToProxy, Status>>>>,
    version: AtomicU64,
}

struct Trust {
    epoch: u64,
    authorities: Vec<Arc<Authority>>,
    signer: Arc<Authority>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap();
        let (pem, der) = (root.pem(), root.der().clone());
        Arc::new(Self { issuer: Issuer::new(params, key), root: der, pem })
    }

    fn sign(&self, key: &impl PublicKeyData, id: &str, ttl: Duration) -> rcgen::Certificate {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = time::OffsetDateTime::now_utc() - Duration::from_mins(1);
        params.not_after = time::OffsetDateTime::now_utc() + ttl;
        params.signed_by(key, &self.issuer).unwrap()
    }

    /// Key and certificate as a kubelet writes them.
    pub(crate) fn credential(&self, id: &SpiffeId, ttl: Duration) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        key.serialize_pem() + &self.sign(&key, id.as_str(), ttl).pem()
    }

    /// What a peer calls this authority.
    pub(crate) fn name(&self) -> [u8; 32] {
        spki_sha256(&self.root).unwrap()
    }
}

impl Operator {
    /// Starts on free ports.
    pub(crate) async fn start(authority: &Arc<Authority>) -> Self {
        let identity = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let discovery = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let trust = Trust { epoch: 1, authorities: vec![authority.clone()], signer: authority.clone() };
        let state = Arc::new(State {
            own: Identity::new(domain()),
            trust: Mutex::new(trust),
            ttl: Mutex::new(Duration::from_hours(24)),
            refused: Mutex::default(),
            keys: Mutex::default(),
            heard: Mutex::default(),
            stream: Mutex::default(),
            version: AtomicU64::new(0),
        });
        state.trust(1, std::slice::from_ref(authority), authority);
        Self {
            identity_address: identity.local_addr().unwrap(),
            discovery_address: discovery.local_addr().unwrap(),
            tasks: vec![
                tokio::spawn(serve_identity(identity, state.clone())),
                tokio::spawn(serve_discovery(discovery, state.clone())),
            ],
            state,
        }
    }

    /// What the injector and the kubelet give to the proxy.
    pub(crate) fn write_files(&self, directory: &Path, roots: &Authority) {
        for (name, text) in [
            ("trust-domain", "cluster.local"),
            ("roots.pem", &roots.pem),
            ("operator-id", OPERATOR),
            ("identity-address", &self.identity_address.to_string()),
            ("discovery-address", &self.discovery_address.to_string()),
        ] {
            std::fs::write(directory.join(name), text).unwrap();
        }
    }

    /// Goes away: listeners, connections, streams.
    pub(crate) fn stop(self) {
        self.state.stream.lock().take();
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl State {
    /// Changes whom the mesh trusts and who signs; the operator's own certificate follows.
    pub(crate) fn trust(&self, epoch: u64, authorities: &[Arc<Authority>], signer: &Arc<Authority>) {
        *self.trust.lock() = Trust { epoch, authorities: authorities.to_vec(), signer: signer.clone() };
        let roots = authorities.iter().map(|a| a.root.clone()).collect();
        let bundle = TrustBundle { epoch, roots: [(domain(), roots)].into(), signer: None };
        assert!(self.own.install_bundle(bundle).unwrap());
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = signer.sign(&key, OPERATOR, Duration::from_hours(1));
        let key = KeyPair::from_pem(&key.serialize_pem()).unwrap();
        self.own.install_leaf(Leaf::new(vec![leaf.der().clone()], key).unwrap()).unwrap();
    }

    pub(crate) fn trust_message(&self) -> v1::Trust {
        let trust = self.trust.lock();
        let roots = trust.authorities.iter().map(|a| a.root.to_vec()).collect();
        encode::trust(&byrnie_api::Trust {
            epoch: trust.epoch,
            roots: [(domain(), roots)].into(),
            signer: Some(trust.signer.name()),
        })
    }

    /// Sends something on the open stream; its version.
    pub(crate) async fn say(&self, resource: v1::to_proxy::Resource) -> u64 {
        let version = self.version.fetch_add(1, SeqCst) + 1;
        let stream = self.stream.lock().clone().expect("a stream is open");
        stream.send(Ok(v1::ToProxy { version, resource: Some(resource) })).await.unwrap();
        version
    }

    /// Whether the proxy has said this.
    pub(crate) fn heard(&self, message: &v1::to_operator::Message) -> bool {
        self.heard.lock().contains(message)
    }
}

async fn serve_identity(listener: TcpListener, state: Arc<State>) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let config = state.own.server_without_client_auth(&[b"h2"]).unwrap();
        let service = v1::identity_server::IdentityServer::new(Service(state.clone()));
        tokio::spawn(async move {
            let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await else { return };
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(tls), TowerToHyperService::new(service));
            // the proxy goes away when it has its certificate
            let _ = connection.await;
        });
    }
}

async fn serve_discovery(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let config = state.own.server_config(&[b"h2"]).unwrap();
        let service = v1::discovery_server::DiscoveryServer::new(Service(state.clone()));
        connections.spawn(async move {
            let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await else { return };
            assert_eq!(peer_of(tls.get_ref().1).unwrap().id, proxy_id());
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(tls), TowerToHyperService::new(service));
            // the proxy may go away
            let _ = connection.await;
        });
    }
}

#[derive(Clone)]
struct Service(Arc<State>);

#[tonic::async_trait]
impl v1::identity_server::Identity for Service {
    async fn issue(&self, request: Request<v1::IssueRequest>) -> Result<Response<v1::IssueResponse>, Status> {
        let request = request.into_inner();
        if request.token != TOKEN {
            *self.0.refused.lock() += 1;
            return Err(Status::unauthenticated("the token is not this pod's"));
        }
        let key = PublicKey::from_csr(&request.csr);
        self.0.keys.lock().push(key.0.clone());
        let ttl = *self.0.ttl.lock();
        let leaf = self.0.trust.lock().signer.sign(&key, proxy_id().as_str(), ttl);
        let trust = Some(self.0.trust_message());
        Ok(Response::new(v1::IssueResponse { chain: vec![leaf.der().to_vec()], trust }))
    }
}

type ToProxies = Pin<Box<dyn Stream<Item = Result<v1::ToProxy, Status>> + Send>>;

#[tonic::async_trait]
impl v1::discovery_server::Discovery for Service {
    type ConnectStream = ToProxies;
    type HoldingsStream = Pin<Box<dyn Stream<Item = Result<v1::HoldingsUpdate, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::ToOperator>>,
    ) -> Result<Response<ToProxies>, Status> {
        let (sender, mut receiver) = mpsc::channel(16);
        *self.0.stream.lock() = Some(sender);
        let (mut incoming, state) = (request.into_inner(), self.0.clone());
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                state.heard.lock().extend(message.message);
            }
        });
        Ok(Response::new(Box::pin(futures::stream::poll_fn(move |cx| receiver.poll_recv(cx)))))
    }

    async fn holdings(
        &self,
        _: Request<v1::HoldingsRequest>,
    ) -> Result<Response<Self::HoldingsStream>, Status> {
        Err(Status::unimplemented("no other replicas here"))
    }
}

/// The P-256 point of a request for a certificate.
struct PublicKey(Vec<u8>);

impl PublicKey {
    fn from_csr(csr: &[u8]) -> Self {
        // AlgorithmIdentifier {ecPublicKey, prime256v1} and the BIT STRING's header, RFC 5480
        const BEFORE: &[u8] = &[
            0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d,
            0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let start = csr.windows(BEFORE.len()).position(|w| w == BEFORE).expect("a P-256 key") + BEFORE.len();
        Self(csr[start..start + 65].to_vec())
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

pub(crate) fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

pub(crate) fn proxy_id() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}
