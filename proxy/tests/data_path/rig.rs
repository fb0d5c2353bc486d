//! Two proxies on loopback, without redirects: app -> outbound listener -> mTLS -> inbound listener -> app.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use byrnie_identity::{Identity, KeyPair, Leaf, TrustBundle};
use byrnie_model::{
    Backend, Destination, Endpoint, InboundPolicy, Mtls, MtlsMode, Protocol, Route, Service, ServicePort,
    SpiffeId, Timeouts, Traffic, TrustDomain, WeightedBackend, Workload,
};
use byrnie_proxy::{
    access_log::AccessLog,
    drain::Drain,
    hosts::Hosts,
    listener::Listener,
    metrics::{Direction, Metrics},
    original_destination::Source,
    state::{Destinations, LastTime, PodInfo, Shared},
    worker,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    SanType,
};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// Signs everybody's certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    pub(crate) root: String,
}

/// A proxy on threads of its own; it lives as long as the test binary.
pub(crate) struct Proxy {
    pub(crate) shared: Arc<Shared>,
    pub(crate) outbound: SocketAddr,
    pub(crate) inbound: SocketAddr,
}

/// Client's proxy and server's proxy, and the application behind the latter.
pub(crate) struct Mesh {
    pub(crate) authority: Authority,
    pub(crate) client: Proxy,
    pub(crate) server: Proxy,
    pub(crate) app: SocketAddr,
    /// Where the destination is known as.
    pub(crate) service: SocketAddr,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "test root");
        let root = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// Trust in this authority alone.
    pub(crate) fn bundle(&self, epoch: u64) -> TrustBundle {
        bundle(epoch, &[self])
    }

    pub(crate) fn identity(&self, account: &str) -> Identity {
        self.identity_for(account, Duration::from_hours(1))
    }

    pub(crate) fn identity_for(&self, account: &str, lifetime: Duration) -> Identity {
        let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
        let identity = Identity::new(trust_domain.clone());
        identity.install_bundle(self.bundle(0)).unwrap();
        identity.install_leaf(self.leaf(account, lifetime)).unwrap();
        identity
    }

    pub(crate) fn leaf(&self, account: &str, lifetime: Duration) -> Leaf {
        self.leaf_of(&id(account), lifetime)
    }

    pub(crate) fn leaf_of(&self, id: &SpiffeId, lifetime: Duration) -> Leaf {
        let (chain, key) = self.certificate(id, lifetime);
        Leaf::from_pem(chain.as_bytes(), KeyPair::from_pem(&key).unwrap()).unwrap()
    }

    /// Its root, for a bundle.
    pub(crate) fn roots(&self, trust_domain: &TrustDomain) -> TrustBundle {
        TrustBundle::from_pem(trust_domain, self.root.as_bytes()).unwrap()
    }

    /// Certificate and key in PEM.
    pub(crate) fn pem(&self, account: &str) -> (String, String) {
        self.certificate(&id(account), Duration::from_hours(1))
    }

    fn certificate(&self, id: &SpiffeId, lifetime: Duration) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = time::OffsetDateTime::now_utc() - Duration::from_mins(1);
        params.not_after = time::OffsetDateTime::now_utc() + lifetime;
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

impl Proxy {
    /// Starts a proxy: `app` is where its inbound listener forwards to, `service` what its outbound listener is.
    pub(crate) fn start(identity: Identity, app: SocketAddr, service: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            identity,
            workload: None.into(),
            destinations: Destinations::default(),
            hosts: Hosts::default(),
            metrics: Arc::new(Metrics::default()),
            log: AccessLog::off(),
            standings: Arc::default(),
            given_up: LastTime::default(),
            drain: Drain::default(),
            pod: PodInfo::default(),
        });
        shared.workload.store(Some(Arc::default()));
        let (outbound, inbound) = (free_port(), free_port());
        let listeners = [
            Listener { direction: Direction::Outbound, address: outbound, source: Source::Fixed(service) },
            Listener { direction: Direction::Inbound, address: inbound, source: Source::Fixed(app) },
        ];
        worker::start(&shared, &listeners, 1).unwrap();
        Self { shared, outbound, inbound }
    }

    pub(crate) fn policy(&self, inbound: InboundPolicy) {
        self.workload(Workload { inbound, ..Workload::default() });
    }

    pub(crate) fn workload(&self, workload: Workload) {
        self.shared.store_workload(workload);
    }

    pub(crate) fn permissive(&self) {
        let mtls = Mtls { default: MtlsMode::Permissive, ports: vec![] };
        self.policy(InboundPolicy { mtls, ..InboundPolicy::default() });
    }

    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        self.shared.metrics.encode(&mut text).unwrap();
        text
    }
}

impl Mesh {
    /// Client `web` calls `app`, whose proxy is `api`'s.
    pub(crate) fn new(app: SocketAddr) -> Self {
        Self::speaking(app, Protocol::Detect)
    }

    pub(crate) fn speaking(app: SocketAddr, protocol: Protocol) -> Self {
        let authority = Authority::new();
        let service: SocketAddr = ([10, 96, 0, 1], 80).into();
        let client = Proxy::start(authority.identity("web"), app, service);
        let server = Proxy::start(authority.identity("api"), app, service);
        let mesh = Self { authority, client, server, app, service };
        mesh.route(one_service(protocol, vec![meshed(mesh.server.inbound, "api")]));
        mesh
    }

    pub(crate) fn route(&self, destination: Destination) {
        self.client.shared.destinations.slot(self.service).store(Arc::new(destination));
    }

    /// The application's port as its proxy knows it.
    pub(crate) fn server_port(&self) -> u16 {
        self.app.port()
    }

    /// Endpoints that end: their applications have closed their listeners already.
    pub(crate) fn leaving(&self, count: usize) -> Vec<Endpoint> {
        let proxy = |_| Proxy::start(self.authority.identity("api"), free_port(), self.service);
        (0..count).map(proxy).map(|proxy| meshed(proxy.inbound, "api")).collect()
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.client.outbound).await.unwrap()
    }
}

/// Trust in all of these.
pub(crate) fn bundle(epoch: u64, authorities: &[&Authority]) -> TrustBundle {
    let roots: String = authorities.iter().map(|authority| authority.root.as_str()).collect();
    let bundle = TrustBundle::from_pem(&"cluster.local".parse().unwrap(), roots.as_bytes()).unwrap();
    TrustBundle { epoch, ..bundle }
}

pub(crate) fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

pub(crate) fn meshed(address: SocketAddr, account: &str) -> Endpoint {
    Endpoint { identity: Some(id(account)), ..plain(address) }
}

pub(crate) fn plain(address: SocketAddr) -> Endpoint {
    Endpoint { pod_uid: address.to_string(), ..Endpoint::bare(address) }
}

pub(crate) fn one_service(protocol: Protocol, endpoints: Vec<Endpoint>) -> Destination {
    service(protocol, vec![("api", 1, endpoints)], Timeouts::default())
}

pub(crate) fn service(
    protocol: Protocol,
    backends: Vec<(&str, u32, Vec<Endpoint>)>,
    timeouts: Timeouts,
) -> Destination {
    service_with(protocol, backends, timeouts, Traffic::default())
}

pub(crate) fn service_with(
    protocol: Protocol,
    backends: Vec<(&str, u32, Vec<Endpoint>)>,
    timeouts: Timeouts,
    traffic: Traffic,
) -> Destination {
    let weights = backends
        .iter()
        .enumerate()
        .map(|(backend, (_, weight, _))| WeightedBackend { backend, weight: *weight });
    let route = Route { backends: weights.collect(), timeouts, ..Route::default() };
    let backends = backends.into_iter().map(|(name, _, endpoints)| Backend {
        name: ServicePort::new("shop", name, 80),
        endpoints: endpoints.into(),
    });
    let name = ServicePort::new("shop", "api", 80);
    let backends = backends.collect();
    Destination::Service(Service { name, protocol, routes: vec![route], backends, traffic })
}

/// An address on which nobody listens, and that nobody else will be given until the process ends.
pub(crate) fn free_port() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap(); // as a worker's: it may then share the reservation
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address
}

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
