//! The TLS listeners over real sockets: who gets in, who is told apart, and who cannot hinder whom.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

mod issuance;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use byrnie_api::v1::{
    IssueRequest, IssueResponse,
    identity_client::IdentityClient,
    identity_server::{Identity as IdentityService, IdentityServer},
};
use byrnie_identity::{Identity, KeyPair, Leaf, TrustBundle, server_name};
use byrnie_model::{SpiffeId, TrustDomain};
use byrnie_operator::{
    serve::{self, HangUp, PeerAddress, PeerIdentity, Settings},
    trust::{Authority, csr},
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    service::Routes,
    transport::{Channel, Endpoint},
};

/// Answers with what it knows of its caller.
struct Mirror;

#[tonic::async_trait]
impl IdentityService for Mirror {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        if request.get_ref().csr == b"hang up" {
            request.extensions().get::<HangUp>().unwrap().0.cancel();
            return std::future::pending().await;
        }
        let address = request.extensions().get::<PeerAddress>().map(|PeerAddress(a)| a.to_string());
        let identity = request.extensions().get::<PeerIdentity>().map(|PeerIdentity(id)| id.to_string());
        let chain = [address, identity].map(|text| text.unwrap_or_default().into_bytes()).into();
        Ok(Response::new(IssueResponse { chain, trust: None }))
    }
}

struct Mesh {
    authority: Authority,
    domain: TrustDomain,
}

impl Mesh {
    fn new() -> Self {
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        let authority = Authority::generate(&domain, Duration::from_hours(24), SystemTime::now()).unwrap();
        Self { authority, domain }
    }

    fn bundle(&self) -> TrustBundle {
        let roots = [(self.domain.clone(), vec![self.authority.root().clone()])].into();
        TrustBundle { epoch: 1, roots, signer: Some(*self.authority.id().as_bytes()) }
    }

    fn member(&self, id: &SpiffeId) -> Identity {
        let identity = Identity::new(self.domain.clone());
        identity.install_bundle(self.bundle()).unwrap();
        let key = KeyPair::generate().unwrap();
        let public = csr::public_key(&key.certificate_request().unwrap()).unwrap();
        let issued = self.authority.sign(&public, id, Duration::from_hours(1), SystemTime::now()).unwrap();
        identity.install_leaf(Leaf::new(issued.chain, key).unwrap()).unwrap();
        identity
    }

    async fn listen(&self, mutual: bool, max_age: Duration) -> Listener {
        let tcp = serve::bind("[::]:0".parse().unwrap()).await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let settings = Settings { name: "test", identity: self.member(&operator()), mutual, max_age };
        let stopping = CancellationToken::new();
        let routes = Routes::new(IdentityServer::new(Mirror));
        let task = tokio::spawn(serve::serve(tcp, settings, routes, stopping.clone()));
        Listener { address: SocketAddr::from(([127, 0, 0, 1], port)), stopping, task }
    }

    fn anonymous(&self) -> Arc<ClientConfig> {
        let nobody = Identity::new(self.domain.clone());
        nobody.client_without_certificate(&self.bundle(), &operator(), &[b"h2"]).unwrap()
    }
}

struct Listener {
    address: SocketAddr,
    stopping: CancellationToken,
    task: JoinHandle<()>,
}

fn operator() -> SpiffeId {
    "spiffe://cluster.local/ns/byrnie-system/sa/byrnie-operator".parse().unwrap()
}

fn web() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

async fn dial(from: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    socket.connect(to).await
}

async fn connect(config: Arc<ClientConfig>, to: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move {
            let tcp = dial([127, 0, 0, 1], to).await?;
            let tls = tokio_rustls::TlsConnector::from(config).connect(server_name(), tcp).await?;
            Ok::<_, std::io::Error>(TokioIo::new(tls))
        }
    });
    Endpoint::from_static("http://operator").connect_with_connector(connector).await
}

/// What the mirror says: address and identity.
async fn ask(channel: Channel) -> Result<(String, String), Status> {
    let answer = IdentityClient::new(channel).issue(IssueRequest::default()).await?.into_inner();
    let mut texts = answer.chain.into_iter().map(|text| String::from_utf8(text).unwrap());
    Ok((texts.next().unwrap(), texts.next().unwrap()))
}

#[tokio::test]
async fn anybody_may_ask_for_a_certificate_and_is_known_by_address() {
    let mesh = Mesh::new();
    let listener = mesh.listen(false, Duration::from_mins(1)).await;
    let (address, identity) = ask(connect(mesh.anonymous(), listener.address).await.unwrap()).await.unwrap();
    assert!(address.starts_with("127.0.0.1:"), "IPv4 as IPv4: {address}");
    assert_eq!(identity, "");
}

#[tokio::test]
async fn discovery_is_for_members_and_knows_them_by_certificate() {
    let mesh = Mesh::new();
    let listener = mesh.listen(true, Duration::from_mins(1)).await;
    let member = mesh.member(&web()).client_config(&operator(), &[b"h2"]).unwrap();
    let (_, identity) = ask(connect(member, listener.address).await.unwrap()).await.unwrap();
    assert_eq!(identity, web().to_string());

    // TLS 1.3 tells a client that its certificate is missing or bad only after the client's own handshake is done.
    let refused = async |config| match connect(config, listener.address).await {
        Ok(channel) => ask(channel).await.is_err(),
        Err(_) => true,
    };
    assert!(refused(mesh.anonymous()).await);
    let stranger = Mesh::new().member(&web());
    stranger.install_bundle(mesh.bundle()).unwrap();
    assert!(refused(stranger.client_config(&operator(), &[b"h2"]).unwrap()).await);
}

#[tokio::test]
async fn an_address_that_opens_many_connections_hinders_no_other() {
    let mesh = Mesh::new();
    let listener = mesh.listen(false, Duration::from_mins(1)).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(dial([127, 0, 0, 2], listener.address).await.unwrap());
    }
    let begun = Instant::now();
    ask(connect(mesh.anonymous(), listener.address).await.unwrap()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

    // All but a few were closed at once, the others when their handshake took too long.
    let mut closed = 0;
    for stream in &mut silent {
        let byte = tokio::time::timeout(Duration::from_millis(1), stream.read(&mut [0; 1])).await;
        closed += usize::from(matches!(byte, Ok(Ok(0) | Err(_))));
    }
    assert_eq!(closed, 300 - 4);
    tokio::time::sleep(Duration::from_secs(6)).await;
    for stream in &mut silent {
        let byte = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut [0; 1])).await;
        assert!(matches!(byte, Ok(Ok(0) | Err(_))), "{byte:?}");
    }
    dial([127, 0, 0, 2], listener.address).await.unwrap().write_all(b"\x16").await.unwrap();
}

#[tokio::test]
async fn what_is_no_tls_ends_its_own_connection_alone() {
    let mesh = Mesh::new();
    let listener = mesh.listen(false, Duration::from_mins(1)).await;
    let mut plain = dial([127, 0, 0, 1], listener.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    ask(connect(mesh.anonymous(), listener.address).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_connection_ends_at_its_age() {
    let mesh = Mesh::new();
    let listener = mesh.listen(false, Duration::from_millis(300)).await;
    let tcp = dial([127, 0, 0, 1], listener.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(mesh.anonymous());
    let mut tls = connector.connect(server_name(), tcp).await.unwrap();
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut frames = Vec::new();
    tokio::time::timeout(Duration::from_secs(7), tls.read_to_end(&mut frames)).await.unwrap().ok();
    let is_goaway = |at: &usize| frames.get(at + 3) == Some(&7);
    let mut at = 0;
    let mut starts = Vec::new();
    while at + 9 <= frames.len() {
        starts.push(at);
        at += 9 + usize::from(frames[at + 1]) * 256 + usize::from(frames[at + 2]);
    }
    assert!(starts.iter().any(is_goaway), "{frames:?}");
}

#[tokio::test]
async fn a_stop_is_not_held_up_by_who_stays_connected() {
    let mesh = Mesh::new();
    let listener = mesh.listen(false, Duration::from_mins(1)).await;
    let channel = connect(mesh.anonymous(), listener.address).await.unwrap();
    ask(channel.clone()).await.unwrap();
    let _silent = dial([127, 0, 0, 1], listener.address).await.unwrap();
    listener.stopping.cancel();
    tokio::time::timeout(Duration::from_secs(10), listener.task).await.unwrap().unwrap();
    assert!(ask(channel).await.is_err());
}

#[tokio::test]
async fn a_service_can_hang_up() {
    let mesh = Mesh::new();
    let listener = mesh.listen(false, Duration::from_mins(1)).await;
    let (channel, other) = (
        connect(mesh.anonymous(), listener.address).await.unwrap(),
        connect(mesh.anonymous(), listener.address).await.unwrap(),
    );
    let request = IssueRequest { csr: b"hang up".into(), ..IssueRequest::default() };
    let mut client = IdentityClient::new(channel);
    let ended = tokio::time::timeout(Duration::from_secs(5), client.issue(request)).await;
    assert!(ended.expect("the connection is still there").is_err());
    ask(other).await.expect("another connection is none of its business");
}

#[tokio::test]
async fn an_address_that_comes_again_and_again_is_slowed_down() {
    let mesh = Mesh::new();
    let listener = mesh.listen(false, Duration::from_mins(1)).await;
    let (begun, mut served) = (Instant::now(), 0);
    for _ in 0..100 {
        if let Ok(channel) = issuance::connect(&mesh, [127, 0, 0, 4], listener.address).await {
            served += u32::from(ask(channel).await.is_ok());
        }
    }
    let since = u32::try_from(begun.elapsed().as_millis() / 250).unwrap();
    assert!((32..=33 + since).contains(&served), "{served} of 100 in {:?}", begun.elapsed());
    ask(connect(mesh.anonymous(), listener.address).await.unwrap()).await.expect("another address");
}
