//! A listener for applications that were told where to go (`http_proxy`, `https_proxy`): requests name their host, and
//! CONNECT asks for a connection to one.
//!
//! Owns the first bytes of such a connection and what a host means; from there on requests and connections go the way
//! of all others (outbound.rs). Nobody gets to the proxy itself, or to the host's own link, by asking for it.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use http::{Request, Response, header, uri::Authority};
use hyper::body::Incoming;
use tokio::net::TcpStream;

use crate::{
    activity::Ends,
    body::ProxyBody,
    detect::Peeked,
    dial,
    drain::InFlight,
    exchange::Exchange,
    hosts,
    http_proxy::{self, Front, Handler},
    metrics::Direction,
    outbound,
    reject::{self, Reject},
    stream::Stream,
    worker::Worker,
};

/// How long the head of a CONNECT may take to arrive.
const HEAD: Duration = Duration::from_secs(10);
/// Most headers of a CONNECT; none of them means anything here.
const MAX_HEADERS: usize = 100;

/// An application's connection whose requests name their hosts.
struct Asking {
    front: Front,
    pass: bool,
}

/// What the first bytes ask for.
#[derive(Debug)]
enum Asked {
    /// Requests.
    Http,
    /// A connection; so many bytes say so.
    Connect(Result<Authority, Reject>, usize),
}

/// Serves one connection of the application, from its acceptance to its end. `pass`: hosts that are no service are let
/// through.
pub async fn serve(worker: Rc<Worker>, tcp: TcpStream, client: SocketAddr, pass: bool, arriving: InFlight) {
    let Ok(address) = tcp.local_addr() else { return dial::reset(&tcp) };
    if dial::tune(&tcp).is_err() {
        return dial::reset(&tcp);
    }
    let activity = worker.watch_over(Ends::default(), Some(arriving));
    let mut peeked = Peeked::new(tcp);
    let asked = match peeked.until(Some(HEAD), look).await {
        Ok(asked) => asked,
        Err(error) => return tracing::debug!(%error, "a connection broke before its first bytes"),
    };
    match asked {
        Some(Asked::Connect(authority, length)) => {
            peeked.skip(length);
            let stream = Stream::Plain(peeked.into_stream());
            let target = match authority {
                Ok(authority) => target(&worker, &authority, None, pass).await,
                Err(reject) => Err(reject),
            };
            outbound::tunnel(worker, stream, client, target.map(Target::opaque), activity).await;
        }
        // what is cut off in the middle of a CONNECT is refused there
        Some(Asked::Http) | None => {
            let stream = Stream::Plain(peeked.into_stream());
            let front = Front::new(worker, client, address, activity);
            http_proxy::http1(stream, Rc::new(Asking { front, pass })).await;
        }
    }
}

/// Whether it is a CONNECT, and what for; `None` when more bytes are needed to tell.
fn look(bytes: &[u8]) -> Option<Asked> {
    const CONNECT: &[u8] = b"CONNECT ";
    if !bytes.starts_with(CONNECT) {
        return (!CONNECT.starts_with(bytes)).then_some(Asked::Http);
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return None,
        // the guard says what is wrong with it
        Err(_) => return Some(Asked::Http),
    };
    let has_body = request.headers.iter().any(|h| {
        h.name.eq_ignore_ascii_case("transfer-encoding")
            || (h.name.eq_ignore_ascii_case("content-length") && h.value != b"0")
    });
    let authority = request.path.and_then(|path| path.parse::<Authority>().ok());
    let authority = authority.filter(|a| a.port_u16().is_some() && !a.as_str().contains('@') && !has_body);
    Some(Asked::Connect(authority.ok_or(reject::BAD_TARGET), length))
}

impl Handler for Asking {
    fn front(&self) -> &Front {
        &self.front
    }

    async fn handle(&self, mut request: Box<Request<Incoming>>) -> Response<ProxyBody> {
        let Front { worker, activity, .. } = &self.front;
        let metrics = worker.shared.metrics.destination(Direction::Outbound, "unknown");
        let exchange = Exchange::new(worker, Direction::Outbound, metrics, None, activity, &request);
        request.headers_mut().remove(header::PROXY_AUTHORIZATION);
        let target = match request.uri().authority() {
            Some(authority) => target(worker, authority, Some(80), self.pass).await.map(Target::http),
            None => Err(reject::NO_HOST_ASKED),
        };
        let answer = match target {
            // boxed: requests of other connections need no room for it
            Ok(target) => {
                let destination = worker.destination(target);
                Box::pin(outbound::send(&self.front, &destination, request, exchange)).await
            }
            Err(reject) => Err((reject, exchange)),
        };
        outbound::answered(answer, false)
    }
}

/// What a host means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// An address of the configuration.
    Known(SocketAddr),
    /// Any other.
    Unknown(SocketAddr),
}

impl Target {
    fn opaque(self) -> SocketAddr {
        match self {
            Self::Known(address) | Self::Unknown(address) => address,
        }
    }

    fn http(self) -> SocketAddr {
        match self {
            Self::Known(address) => address,
            Self::Unknown(address) => hosts::of_plain(address),
        }
    }
}

/// Looks a host up among the services, by name and then by address.
async fn target(
    worker: &Worker,
    authority: &Authority,
    default_port: Option<u16>,
    pass: bool,
) -> Result<Target, Reject> {
    let shared = &worker.shared;
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => default_port,
        _ => authority.port_u16(),
    };
    let port = port.filter(|port| *port > 0).ok_or(reject::BAD_TARGET)?;
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    if let Some(address) = shared.hosts.table.load().get(&format!("{host}:{port}")) {
        return Ok(Target::Known(*address));
    }
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let ip = if let Ok(ip) = literal {
        ip
    } else {
        let resolver = shared.hosts.resolver.load_full().ok_or(reject::UNKNOWN_HOST)?;
        let found = resolver.lookup_ip(host.as_str()).await.map_err(|error| {
            tracing::debug!(%error, host, "a name that was asked for has no address");
            reject::NO_ADDRESS
        })?;
        found.iter().next().ok_or(reject::NO_ADDRESS)?
    };
    let address = SocketAddr::new(ip.to_canonical(), port);
    if hosts::is_forbidden(address.ip()) || shared.pod.is_own_listener(address) {
        return Err(reject::FORBIDDEN_HOST);
    }
    if let Some(known) = shared.hosts.table.load().get(&address.to_string()) {
        return Ok(Target::Known(*known));
    }
    if pass { Ok(Target::Unknown(address)) } else { Err(reject::UNKNOWN_HOST) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_ask_for_a_host() {
        for (bytes, host) in [
            (&b"CONNECT a.b:443 HTTP/1.1\r\nHost: a.b:443\r\n\r\n\x16\x03"[..], Ok("a.b:443")),
            (b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n", Ok("[::1]:443")),
            (b"CONNECT a.b HTTP/1.1\r\n\r\n", Err("bad-target")),
            (b"CONNECT http://a.b:1/ HTTP/1.1\r\n\r\n", Err("bad-target")),
            (b"CONNECT u@a.b:1 HTTP/1.1\r\n\r\n", Err("bad-target")),
            (b"CONNECT a.b:1 HTTP/1.1\r\nContent-Length: 3\r\n\r\n", Err("bad-target")),
        ] {
            let Some(Asked::Connect(found, length)) = look(bytes) else { panic!("{}", bytes.escape_ascii()) };
            assert_eq!(found.as_ref().map(Authority::as_str).map_err(|r| r.reason), host);
            let head = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            assert_eq!(length, head);
        }
        for more in [&b"CON"[..], b"CONNECT ", b"CONNECT a.b:443 HTTP/1.1\r\nHost"] {
            assert!(look(more).is_none(), "{}", more.escape_ascii());
        }
        for http in [&b"GET http://a/ HTTP/1.1\r\n"[..], b"C", b"CONNECTED", b"CONNECT \x01 HTTP/1.1\r\n\r\n"]
        {
            assert!(http == b"C" || matches!(look(http), Some(Asked::Http)), "{}", http.escape_ascii());
        }
    }
}
