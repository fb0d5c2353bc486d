//! The pod's own calls: original destination, protocol, route, endpoint.
//!
//! Follow a connection from [`serve`], and a request from `Outbound::handle`.

use std::{net::SocketAddr, rc::Rc};

use byrnie_identity::Alpn;
use byrnie_model::{Faults, Protocol};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    activity::{Activity, Ends},
    balance::Pending,
    body::ProxyBody,
    breaker::Fault,
    destination::{Chosen, Destination, Resolved},
    detect::{self, Peeked, Spoken},
    dial::{self, DialError, dial},
    drain::InFlight,
    exchange::Exchange,
    faults,
    forward::{Way, forward},
    front_door, headers,
    http_proxy::{self, Front, Handler},
    metrics::{DestinationMetrics, Direction},
    opaque::copy,
    original_destination::Source,
    passage::Passage,
    reject::{self, Reject},
    said,
    stream::Stream,
    template::is_grpc,
    worker::Worker,
};

/// Streams per HTTP/2 connection: an application may keep many open on one, and waits in vain where few are allowed.
const MAX_STREAMS: u32 = 1000;

/// An application's connection that carries HTTP.
struct Outbound {
    front: Front,
    destination: Rc<Destination>,
    metrics: DestinationMetrics,
}

/// An application's connection that carries something else.
struct Opaque {
    worker: Rc<Worker>,
    stream: Stream,
    client: SocketAddr,
    address: SocketAddr,
    destination: Rc<Destination>,
    activity: Rc<Activity>,
    /// It was asked for by CONNECT, which wants an answer first.
    asked: bool,
}

/// Serves one connection of the application, from its acceptance to its end.
pub async fn serve(
    worker: Rc<Worker>,
    tcp: TcpStream,
    client: SocketAddr,
    source: Source,
    arriving: InFlight,
) {
    let Ok(address) = source.destination(&tcp) else { return dial::reset(&tcp) };
    let own = source == Source::Redirected && worker.shared.pod.is_own_listener(address);
    if own || dial::tune(&tcp).is_err() {
        return dial::reset(&tcp);
    }
    let destination = worker.destination(address);
    let activity = worker.watch_over(Ends::default(), Some(arriving));
    let resolved = destination.resolve(&worker).await;
    let declared = resolved.as_ref().map_or(Protocol::Detect, |resolved| resolved.protocol());
    let mut peeked = Peeked::new(tcp);
    let spoken = match spoken(&mut peeked, declared).await {
        Ok(spoken) => spoken,
        Err(error) => return tracing::debug!(%error, "a connection broke before its first bytes"),
    };
    let stream = Stream::Plain(peeked.into_stream());
    if matches!(spoken, Spoken::Tls | Spoken::Opaque) {
        let opaque = Opaque { worker, stream, client, address, destination, activity, asked: false };
        return opaque.serve(resolved.as_deref()).await;
    }
    let metrics = match &resolved {
        Some(resolved) => resolved.metrics.clone(),
        None => worker.shared.metrics.destination(Direction::Outbound, "unknown"),
    };
    let http2 = spoken == Spoken::Http2;
    let kind = if http2 { "app-http2" } else { "app-http1" };
    let _open = worker.shared.metrics.connection(Direction::Outbound, kind, None);
    let front = Front::new(worker, client, address, activity);
    let handler = Rc::new(Outbound { front, destination, metrics });
    if http2 {
        // boxed: there are fewer of these, and they are larger
        Box::pin(http_proxy::http2(stream, handler, MAX_STREAMS)).await;
    } else {
        http_proxy::http1(stream, handler).await;
    }
}

/// What a connection carries: as declared, or else by its first bytes. Declared HTTP may take its time.
pub async fn spoken(peeked: &mut Peeked, declared: Protocol) -> std::io::Result<Spoken> {
    let (limit, otherwise) = match declared {
        Protocol::Opaque | Protocol::Tls => return Ok(Spoken::Opaque),
        Protocol::Http1 | Protocol::Http2 => (None, Spoken::Http1),
        Protocol::Detect => (Some(detect::LIMIT), Spoken::Opaque),
    };
    Ok(match peeked.until(limit, detect::look).await? {
        None | Some(Spoken::Opaque) => otherwise,
        Some(spoken) => spoken,
    })
}

impl Handler for Outbound {
    fn front(&self) -> &Front {
        &self.front
    }

    async fn handle(&self, request: Box<Request<Incoming>>) -> Response<ProxyBody> {
        let Front { worker, activity, .. } = &self.front;
        let exchange =
            Exchange::new(worker, Direction::Outbound, self.metrics.clone(), None, activity, &request);
        let grpc = is_grpc(request.version(), request.headers());
        answered(send(&self.front, &self.destination, request, exchange).await, grpc)
    }
}

/// What a request becomes: a response, or why there is none.
pub type Answer = Result<Response<ProxyBody>, (Reject, Box<Exchange>)>;

/// Sends one request to a destination.
pub async fn send(
    front: &Front,
    destination: &Destination,
    mut request: Box<Request<Incoming>>,
    mut exchange: Box<Exchange>,
) -> Answer {
    if let Err(reject) = front_door::admit(&mut *request, || front.destination.to_string()) {
        return Err((reject, exchange));
    }
    let asked = headers::strip_hop_by_hop(request.headers_mut());
    let version = request.version();
    let said = said::take(request.headers_mut(), version);
    said.tell(request.headers_mut());
    let Some(resolved) = destination.resolve(&front.worker).await else {
        return Err((reject::DISCOVERY_TIMEOUT, exchange));
    };
    exchange.set_metrics(&resolved.metrics);
    let view = front_door::view(&request);
    let Chosen { backend, timeouts, faults, mirrors } = match resolved.choose(Some(&view)) {
        Ok(chosen) => chosen,
        Err(reject) => return Err((reject, exchange)),
    };
    let key = resolved.key(Some(&view), front.client.ip());
    exchange.set_metrics(&backend.metrics);
    if faults != Faults::default() {
        // boxed: few requests need it
        if let Err(reject) = Box::pin(faults::inject(faults)).await {
            return Err((reject, exchange));
        }
    }
    let endpoints = destination.endpoints(&resolved, backend, key);
    let way = Way { endpoints, timeouts, told: said.timeout, asked, mirrors };
    forward(front, way, request, exchange).await
}

/// Where there is no response, one that says why; to callers of gRPC in its words.
pub fn answered(answer: Answer, grpc: bool) -> Response<ProxyBody> {
    match answer {
        Ok(response) => response,
        Err((reject, mut exchange)) => {
            exchange.reject(reject);
            reject.to_app(grpc)
        }
    }
}

/// Serves a connection that was asked for by CONNECT, or says why not.
pub async fn tunnel(
    worker: Rc<Worker>,
    mut stream: Stream,
    client: SocketAddr,
    target: Result<SocketAddr, Reject>,
    activity: Rc<Activity>,
) {
    let address = match target {
        Ok(address) => address,
        Err(reject) => {
            let metrics = worker.shared.metrics.destination(Direction::Outbound, "unknown");
            Passage::new(&worker, Direction::Outbound, metrics, None, &activity).failed(reject.reason);
            return refuse(&mut stream, reject).await;
        }
    };
    let destination = worker.destination(address);
    let resolved = destination.resolve(&worker).await;
    let opaque = Opaque { worker, stream, client, address, destination, activity, asked: true };
    opaque.serve(resolved.as_deref()).await;
}

async fn refuse(stream: &mut Stream, reject: Reject) {
    // who asked may be gone
    let _ = stream.write_all(reject.to_asker().as_bytes()).await;
    let _ = stream.shutdown().await;
}

impl Opaque {
    async fn serve(mut self, resolved: Option<&Resolved>) {
        let metrics = match resolved {
            Some(resolved) => resolved.metrics.clone(),
            None => self.worker.shared.metrics.destination(Direction::Outbound, "unknown"),
        };
        let mut passage = Passage::new(&self.worker, Direction::Outbound, metrics, None, &self.activity);
        let _open = self.worker.shared.metrics.connection(Direction::Outbound, "app-tcp", None);
        let connected = match resolved {
            None => Err(reject::DISCOVERY_TIMEOUT.reason),
            Some(resolved) if resolved.is_passthrough() => self.pass_through(&mut passage).await,
            Some(resolved) => self.connect(resolved, &mut passage).await,
        };
        let meter = passage.meter.clone();
        let (mut server, idle, pending) = match connected {
            Ok(connected) => connected,
            Err(reason) => {
                passage.failed(reason);
                if self.asked {
                    return refuse(&mut self.stream, Reject { reason, ..reject::CONNECT_FAILED }).await;
                }
                return dial::reset(self.stream.tcp());
            }
        };
        if self.asked && self.stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_err()
        {
            return dial::reset(self.stream.tcp());
        }
        tokio::select! {
            ended = copy(&mut self.stream, &mut server, &meter, idle) => if let Err(error) = ended {
                tracing::debug!(%error, destination = %self.address, "an opaque connection ended with an error");
                dial::reset(self.stream.tcp());
            },
            _ = self.activity.ending() => dial::reset(self.stream.tcp()),
        }
        drop(pending);
    }

    async fn pass_through(&self, passage: &mut Passage) -> Connected {
        match dial::connect(&self.worker.shared, self.address).await {
            Ok(tcp) => Ok((Stream::Plain(tcp.into()), None, None)),
            Err(error) => {
                tracing::debug!(%error, "a connection out of the mesh failed");
                passage.failed(error.reason());
                Err(reject::CONNECT_FAILED.reason)
            }
        }
    }

    async fn connect(&self, resolved: &Resolved, passage: &mut Passage) -> Connected {
        let chosen = resolved.choose(None).map_err(|reject| reject.reason)?;
        let Chosen { backend, timeouts, mirrors, .. } = chosen;
        mirrors.pass_over();
        let endpoints = self.destination.endpoints(resolved, backend, resolved.key(None, self.client.ip()));
        let mut tried = Vec::new();
        let mut reason = reject::NO_HEALTHY_ENDPOINTS.reason;
        while let Some(pending) = endpoints.next_connection(&self.worker, &tried).await {
            let member = pending.member().clone();
            let endpoint = member.pool.endpoint();
            match dial(&self.worker, endpoint, Alpn::ConfirmedTcp).await {
                Ok(dialled) => {
                    pending.answered();
                    passage.set_endpoint(&backend.metrics, endpoint.address);
                    return Ok((dialled.stream, timeouts.idle, Some(pending)));
                }
                Err(error) => {
                    tracing::debug!(%error, "an endpoint took no connection");
                    reason = match error {
                        DialError::Handshake { .. } => reject::HANDSHAKE_FAILED.reason,
                        DialError::Denied(_) => {
                            pending.settle();
                            return Err("denied");
                        }
                        _ => reject::CONNECT_FAILED.reason,
                    };
                    if pending.failed(Fault::Unreachable) {
                        backend.metrics.ejected();
                    }
                }
            }
            tried.push(member);
        }
        Err(reason)
    }
}

type Connected = Result<(Stream, Option<std::time::Duration>, Option<Pending>), &'static str>;
