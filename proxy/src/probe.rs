//! Kubelet probes, run against the application from inside the pod: the answer is success or failure and nothing else,
//! so that no path of the application is open to anyone.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// One probe, as the injector wrote it down.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// HTTP GET: success is a status from 200 to 399.
    #[serde(default)]
    http: Option<HttpGet>,
    /// TCP: success is a connection.
    #[serde(default)]
    tcp: Option<Connect>,
    /// gRPC health protocol: success is SERVING.
    #[serde(default)]
    grpc: Option<Health>,
    #[serde(default = "a_second")]
    timeout_seconds: u64,
    /// A hook does something: who runs it must know this.
    #[serde(default)]
    key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpGet {
    port: u16,
    path: String,
    #[serde(default)]
    scheme: Scheme,
    #[serde(default)]
    headers: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Scheme {
    #[default]
    Http,
    Https,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Connect {
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Health {
    port: u16,
    #[serde(default)]
    service: String,
}

/// Why the application did not pass.
#[derive(Debug, Error)]
pub enum Failure {
    /// Too slow.
    #[error("no answer within {0} s")]
    Timeout(u64),
    /// Nobody there.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// Not the protocol.
    #[error("does not speak the protocol: {0}")]
    Protocol(#[source] hyper::Error),
    /// Not a request.
    #[error("the probe is no valid request: {0}")]
    Request(#[source] http::Error),
    /// The answer is no.
    #[error("answered {0}")]
    Status(u16),
    /// gRPC: the answer is no.
    #[error("is not serving")]
    NotServing,
    /// The list of probes has one without a kind.
    #[error("the probe says neither http nor tcp nor grpc")]
    Empty,
}

fn a_second() -> u64 {
    1
}

impl Probe {
    /// Reads the injector's list.
    ///
    /// # Errors
    /// When it is not that list.
    pub fn list(json: &str) -> serde_json::Result<Vec<Self>> {
        serde_json::from_str(json)
    }

    /// Whether somebody who brings this key, or none, may run it.
    pub fn opens_with(&self, key: Option<&str>) -> bool {
        self.key.as_deref() == key
    }

    /// Probes the application that listens on an address of the pod.
    ///
    /// # Errors
    /// When it does not pass.
    pub async fn run(&self, ip: IpAddr) -> Result<(), Failure> {
        let limit = self.timeout_seconds.max(1);
        let probed = timeout(Duration::from_secs(limit), async {
            match self {
                Self { http: Some(get), .. } => get.run(ip).await,
                Self { tcp: Some(Connect { port }), .. } => connect(ip, *port).await.map(drop),
                Self { grpc: Some(health), .. } => health.run(ip).await,
                _ => Err(Failure::Empty),
            }
        });
        probed.await.unwrap_or(Err(Failure::Timeout(limit)))
    }
}

impl HttpGet {
    async fn run(&self, ip: IpAddr) -> Result<(), Failure> {
        let path = if self.path.starts_with('/') { self.path.clone() } else { format!("/{}", self.path) };
        let mut request = Request::get(path).body(Full::<Bytes>::default()).map_err(Failure::Request)?;
        let address = SocketAddr::new(ip, self.port);
        *request.headers_mut() = self.headers(address).map_err(Failure::Request)?;
        let tcp = connect(ip, self.port).await?;
        match self.scheme {
            Scheme::Http => get(tcp, request).await,
            Scheme::Https => {
                let tls = TlsConnector::from(anybody::client()).connect(ip.into(), tcp);
                get(tls.await.map_err(Failure::Connect)?, request).await
            }
        }
    }

    /// What the kubelet sends: its own defaults, and the probe's headers over them.
    fn headers(&self, address: SocketAddr) -> http::Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::try_from(address.to_string())?);
        headers.insert(header::USER_AGENT, HeaderValue::from_static("kube-probe/byrnie"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        for (name, value) in &self.headers {
            headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        Ok(headers)
    }
}

async fn connect(ip: IpAddr, port: u16) -> Result<TcpStream, Failure> {
    TcpStream::connect((ip, port)).await.map_err(Failure::Connect)
}

async fn get<IO>(io: IO, request: Request<Full<Bytes>>) -> Result<(), Failure>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(Failure::Protocol)?;
    let _driving = Driving(tokio::spawn(async move {
        // an error of the connection is an error of the request too
        let _ = connection.await;
    }));
    let response = sender.send_request(request).await.map_err(Failure::Protocol)?;
    match response.status().as_u16() {
        200..400 => Ok(()),
        other => Err(Failure::Status(other)),
    }
}

impl Health {
    /// `grpc.health.v1.Health/Check`, whose two messages have one field each.
    async fn run(&self, ip: IpAddr) -> Result<(), Failure> {
        let io = TokioIo::new(connect(ip, self.port).await?);
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), io).await.map_err(Failure::Protocol)?;
        let _driving = Driving(tokio::spawn(async move {
            // an error of the connection is an error of the request too
            let _ = connection.await;
        }));
        let request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("http://{}/grpc.health.v1.Health/Check", SocketAddr::new(ip, self.port)))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, "kube-probe/byrnie")
            .body(Full::new(self.message()))
            .map_err(Failure::Request)?;
        let mut response = sender.send_request(request).await.map_err(Failure::Protocol)?;
        let mut message = Vec::new();
        while let Some(frame) = response.frame().await {
            if let Some(data) = frame.map_err(Failure::Protocol)?.data_ref()
                && message.len() + data.len() <= 1024
            {
                message.extend_from_slice(data);
            }
        }
        if is_serving(&message) { Ok(()) } else { Err(Failure::NotServing) }
    }

    /// `HealthCheckRequest { string service = 1; }` in a gRPC frame.
    fn message(&self) -> Bytes {
        let mut fields = Vec::new();
        if !self.service.is_empty() {
            fields.push(0x0a);
            let mut len = self.service.len();
            while len >= 0x80 {
                fields.push(u8::try_from(len & 0x7f).unwrap_or(0x7f) | 0x80);
                len >>= 7;
            }
            fields.push(u8::try_from(len).unwrap_or(0x7f));
            fields.extend_from_slice(self.service.as_bytes());
        }
        let mut frame = vec![0];
        frame.extend_from_slice(&u32::try_from(fields.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend_from_slice(&fields);
        frame.into()
    }
}

/// Whether a gRPC frame is `HealthCheckResponse { status: SERVING }`, field 1 with value 1, among whatever else.
fn is_serving(frame: &[u8]) -> bool {
    frame.len() >= 7 && frame[0] == 0 && frame[5..].starts_with(&[0x08, 0x01])
}

/// A connection's task that ends with the probe.
struct Driving(tokio::task::JoinHandle<()>);

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// TLS as the kubelet speaks it to a probe: whoever answers is fine, because nothing is said and only a status is read.
mod anybody {
    use rustls::{
        ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
        version::TLS13,
    };
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    use super::Arc;

    #[derive(Debug)]
    struct Anybody(Arc<CryptoProvider>);

    pub(super) fn client() -> Arc<ClientConfig> {
        let provider = byrnie_identity::provider();
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        Arc::new(config)
    }

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_injectors_list_is_read() {
        let list = Probe::list(
            r#"[{"http":{"port":8080,"path":"/healthz","scheme":"HTTP","headers":[["a","b"]]},"timeoutSeconds":3},
                {"tcp":{"port":5432}},
                {"grpc":{"port":9000,"service":""},"timeoutSeconds":1}]"#,
        )
        .unwrap();
        assert_eq!(list.len(), 3);
        assert_eq!(list[0].http.as_ref().unwrap().headers, [("a".to_owned(), "b".to_owned())]);
        assert_eq!((list[0].timeout_seconds, list[1].timeout_seconds), (3, 1));
        assert!(Probe::list(r#"[{"exec":{}}]"#).is_err());
    }

    #[test]
    fn the_kubelets_headers_can_be_overridden() {
        let get = HttpGet {
            port: 8080,
            path: "/".into(),
            scheme: Scheme::Http,
            headers: vec![("Host".into(), "shop.example".into()), ("X-A".into(), "b".into())],
        };
        let headers = get.headers("[fd00::1]:8080".parse().unwrap()).unwrap();
        assert!(headers["host"] == "shop.example" && headers["x-a"] == "b");
        let bad = HttpGet { headers: vec![("a b".into(), "c".into())], ..get };
        assert!(bad.headers("10.0.0.1:80".parse().unwrap()).is_err());
    }

    #[test]
    fn health_messages() {
        let health = |service: &str| Health { port: 1, service: service.into() }.message();
        assert_eq!(&health("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(health(&"x".repeat(200))[5..8], [0x0a, 0xc8, 0x01]);
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]));
        for other in [&[0, 0, 0, 0, 2, 8, 2][..], &[0, 0, 0, 0, 0], &[], &[1, 0, 0, 0, 2, 8, 1]] {
            assert!(!is_serving(other), "{other:?}");
        }
    }
}
