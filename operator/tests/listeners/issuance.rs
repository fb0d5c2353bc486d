//! Issuance under attack: the real service, over real connections where these matter, for a town of pods.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use byrnie_api::v1::{
    IssueRequest, identity_client::IdentityClient, identity_server::Identity as _,
    identity_server::IdentityServer,
};
use byrnie_crds::meshtrust::{Phase, RootState};
use byrnie_identity::KeyPair;
use byrnie_operator::{
    api_call::ApiError,
    index::facts::Pod,
    issuance::{Facts, Issuance},
    metrics::Metrics,
    serve::{self, PeerAddress, Settings},
    trust::{
        Authority, Root, TrustState,
        current::{Stale, Trusted},
        federation::Federation,
    },
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    service::Routes,
    transport::{Channel, Endpoint},
};

use super::{Mesh, dial, operator};

/// Pods `web-1`, `web-2` ..., each with an address and a token of its own, and an API server that takes 5 ms.
#[derive(Clone)]
struct Town {
    pods: Arc<HashMap<String, Pod>>,
    trusted: Arc<Trusted>,
    calls: Arc<AtomicUsize>,
    most_calls: Arc<AtomicUsize>,
    reviews: Arc<AtomicUsize>,
}

fn address(pod: u32) -> [u8; 4] {
    let [.., high, low] = pod.to_be_bytes();
    [127, 1, high, low]
}

impl Town {
    fn new(mesh: &Mesh, pods: u32) -> Self {
        let pod = |n: u32| Pod {
            uid: format!("uid-{n}"),
            labels: BTreeMap::new(),
            named_ports: Vec::new(),
            addresses: vec![address(n).into()],
            identity: Some(format!("spiffe://cluster.local/ns/shop/sa/web-{n}").parse().unwrap()),
            service_account: format!("web-{n}"),
            created: k8s_openapi::jiff::Timestamp::MIN,
            live: true,
            containers_ready: true,
            node: "node-1".into(),
            weight: 1,
        };
        let now = SystemTime::now();
        let authority = Authority::generate(&mesh.domain, Duration::from_hours(720), now).unwrap();
        let state = TrustState {
            domain: mesh.domain.clone(),
            epoch: 1,
            phase: Phase::Stable,
            since: now,
            request: None,
            restored: None,
            roots: vec![Root::of(&authority, RootState::Active)],
            signer: authority.id(),
        };
        let leaf_lifetime = Duration::from_hours(24);
        let trusted = Trusted {
            state,
            authority: Some(authority),
            leaf_lifetime,
            federation: Federation::default(),
            mesh_trust: String::new(),
        };
        Self {
            pods: Arc::new((1..=pods).map(|n| (format!("web-{n}"), pod(n))).collect()),
            trusted: Arc::new(trusted),
            calls: Arc::default(),
            most_calls: Arc::default(),
            reviews: Arc::default(),
        }
    }

    fn issuance(&self, mesh: &Mesh) -> Issuance<Self> {
        Issuance::new(self.clone(), mesh.domain.clone(), Metrics::default())
    }

    async fn call(&self) {
        let now = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_calls.fetch_max(now, Ordering::Relaxed);
        sleep(Duration::from_millis(5)).await;
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Facts for Town {
    async fn review(&self, token: &str, audience: &str) -> Result<TokenReviewStatus, ApiError> {
        self.reviews.fetch_add(1, Ordering::Relaxed);
        self.call().await;
        let Some(pod) = token.strip_prefix("token of ").filter(|pod| self.pods.contains_key(*pod)) else {
            let error = Some("invalid bearer token".into());
            return Ok(TokenReviewStatus { error, ..TokenReviewStatus::default() });
        };
        let uid = self.pods[pod].uid.clone();
        let extra = [("pod-name", pod.to_owned()), ("pod-uid", uid)];
        let extra = extra.map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![value]));
        Ok(TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![audience.into()]),
            user: Some(UserInfo {
                username: Some(format!("system:serviceaccount:shop:{pod}")),
                extra: Some(extra.into()),
                ..UserInfo::default()
            }),
            error: None,
        })
    }

    async fn pod(&self, _: &str, name: &str, uid: &str) -> Option<Pod> {
        self.pods.get(name).filter(|pod| pod.uid == uid).cloned()
    }

    async fn trust(&self) -> Result<Arc<Trusted>, Stale> {
        self.call().await;
        Ok(self.trusted.clone())
    }
}

fn request(pod: u32) -> IssueRequest {
    let csr = KeyPair::generate().unwrap().certificate_request().unwrap();
    IssueRequest { csr, token: format!("token of web-{pod}"), trust_epoch: 0 }
}

/// 1,000 pods start at the same moment, and a refused one comes again as a proxy does. The clock is simulated.
#[tokio::test(start_paused = true)]
async fn a_thousand_pods_at_once_all_get_certificates_within_seconds() {
    let mesh = Mesh::new();
    let town = Town::new(&mesh, 1000);
    let issuance = Arc::new(town.issuance(&mesh));
    let begun = Instant::now();
    let pods = (1..=1000).map(|pod| {
        let issuance = issuance.clone();
        tokio::spawn(async move {
            let mut longest = Duration::from_millis(200);
            loop {
                let mut request = Request::new(request(pod));
                let address: IpAddr = address(pod).into();
                request.extensions_mut().insert(PeerAddress(SocketAddr::new(address, 1)));
                match issuance.issue(request).await {
                    Ok(_) => return Instant::now() - begun,
                    Err(status) => {
                        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                        assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
                    }
                }
                sleep(longest.mul_f64(fastrand::f64())).await;
                longest = (longest * 2).min(Duration::from_secs(10));
            }
        })
    });
    let mut took: Vec<Duration> =
        futures::future::join_all(pods).await.into_iter().map(Result::unwrap).collect();
    took.sort_unstable();
    println!(
        "certificates for 1,000 pods: half in {:.1?}, 99 % in {:.1?}, all in {:.1?}",
        took[499], took[989], took[999]
    );
    assert!(took[999] <= Duration::from_secs(20), "{:?}", took[999]);
    assert!(town.most_calls.load(Ordering::Relaxed) <= 32, "calls to the API server are bounded");
}

/// A pod's connection to the identity service.
pub(super) async fn connect(
    mesh: &Mesh,
    from: [u8; 4],
    to: SocketAddr,
) -> Result<Channel, tonic::transport::Error> {
    let config = mesh.anonymous();
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move {
            let tcp = dial(from, to).await?;
            let tls = tokio_rustls::TlsConnector::from(config);
            let tls = tls.connect(byrnie_identity::server_name(), tcp).await?;
            Ok::<_, std::io::Error>(TokioIo::new(tls))
        }
    });
    Endpoint::from_static("http://operator").connect_with_connector(connector).await
}

/// Asks as fast as it can, on as many connections as it gets, with good requests and with garbage.
async fn flood(mesh: Arc<Mesh>, to: SocketAddr, asked: Arc<AtomicUsize>, refused: Arc<AtomicUsize>) {
    let (good, mut turn) = (request(1), 0_u32);
    let mut garbage = good.clone();
    garbage.csr = vec![0x30; 4000];
    let mut stolen = good.clone();
    stolen.token = "token of web-2".into();
    let requests = [good, garbage, stolen];
    loop {
        let Ok(channel) = connect(&mesh, address(1), to).await else {
            sleep(Duration::from_millis(1)).await;
            continue;
        };
        let streams = (0..16).map(|_| {
            turn += 1;
            let (mut client, request) = (IdentityClient::new(channel.clone()), &requests[turn as usize % 3]);
            let (asked, refused) = (&asked, &refused);
            async move {
                for _ in 0..8 {
                    asked.fetch_add(1, Ordering::Relaxed);
                    if client.issue(request.clone()).await.is_err() {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        futures::future::join_all(streams).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_floods_slows_no_other() {
    let mesh = Arc::new(Mesh::new());
    let town = Town::new(&mesh, 121);
    let tcp = serve::bind("[::]:0".parse().unwrap()).await.unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], tcp.local_addr().unwrap().port()));
    let identity = mesh.member(&operator());
    let settings = Settings { name: "identity", identity, mutual: false, max_age: Duration::from_mins(1) };
    let routes = Routes::new(IdentityServer::new(town.issuance(&mesh)));
    tokio::spawn(serve::serve(tcp, settings, routes, CancellationToken::new()));

    // What a pod waits for when nobody floods, on a machine that may be busy.
    let mut alone = Duration::ZERO;
    for pod in 102..=121 {
        let begun = Instant::now();
        let channel = connect(&mesh, address(pod), to).await.unwrap();
        IdentityClient::new(channel).issue(request(pod)).await.unwrap();
        alone = alone.max(Instant::now() - begun);
    }

    let (asked, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let attackers: Vec<_> =
        (0..24).map(|_| tokio::spawn(flood(mesh.clone(), to, asked.clone(), refused.clone()))).collect();
    sleep(Duration::from_secs(2)).await;
    let others = (2..=101).map(|pod| {
        let mesh = mesh.clone();
        tokio::spawn(async move {
            sleep(Duration::from_secs(8).mul_f64(f64::from(pod) / 100.0)).await;
            let begun = Instant::now();
            let channel =
                connect(&mesh, address(pod), to).await.map_err(|e| Status::unavailable(e.to_string()))?;
            let issued = IdentityClient::new(channel).issue(request(pod)).await?.into_inner();
            Ok::<_, Status>((pod, Instant::now() - begun, issued))
        })
    });
    let others = futures::future::join_all(others).await;
    attackers.iter().for_each(tokio::task::JoinHandle::abort);

    let mut took = Vec::new();
    for other in others {
        let (pod, time, issued) = other.unwrap().expect("a pod that does nothing wrong gets its certificate");
        let (_, leaf) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        let own = format!("spiffe://cluster.local/ns/shop/sa/web-{pod}");
        assert_eq!(*names, [x509_parser::extensions::GeneralName::URI(&own)]);
        took.push(time);
    }
    took.sort_unstable();
    let (asked, refused) = (asked.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    let reviews = town.reviews.load(Ordering::Relaxed);
    println!(
        "one pod asked {asked} times ({refused} refused); token reviews: {reviews}; 100 others: half within {:.0?}, 99 % within {:.0?}",
        took[49], took[98]
    );
    assert!(took[98] < Duration::from_secs(2).max(alone * 10), "{:?}, alone {alone:?}", took[98]);
    assert!(asked < 16 * 16 * 20, "the flood is kept quiet: {asked}");
    assert!(reviews <= 20 + 100 + 10 + 30, "the flood reached the API server: {reviews}");
    assert_eq!(took.len(), 100);
}
