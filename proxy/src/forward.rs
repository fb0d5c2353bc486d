//! From an admitted request to its response: the part that both directions share.
//!
//! The caller has decided where to and under which limits; this sends, and dresses the response for the client.

use std::time::Duration;

use byrnie_model::Timeouts;
use http::{Extensions, Request, Response, StatusCode, Version, header};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{
    body::{Download, ProxyBody, Upload},
    deadline,
    exchange::Exchange,
    headers::{self, Asked},
    http_proxy::Front,
    mirror::Mirrors,
    pace::Pace,
    reject::{self, Reject},
    retry::{self, Answer, Endpoints, Limits},
    template::Template,
    upgrade::Tunnel,
};

/// A request body over HTTP/1 may pause for this long.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// Where to, and under which limits.
#[derive(Debug)]
pub struct Way<'a> {
    /// Where it may go.
    pub endpoints: Endpoints<'a>,
    /// Time limits of a policy.
    pub timeouts: Timeouts,
    /// The time that the caller gives it.
    pub told: Option<Duration>,
    /// What the request asked of its own hop.
    pub asked: Asked,
    /// Who may get a copy.
    pub mirrors: Mirrors<'a>,
}

/// Sends a request and returns the response, or says why there is none.
pub async fn forward(
    front: &Front,
    way: Way<'_>,
    request: Box<Request<Incoming>>,
    mut exchange: Box<Exchange>,
) -> Result<Response<ProxyBody>, (Reject, Box<Exchange>)> {
    let (mut head, incoming) = request.into_parts();
    head.extensions = Extensions::new();
    let http1 = head.version < Version::HTTP_2;
    headers::ask(&mut head.headers, way.asked, head.version);
    let upload = (!incoming.is_end_stream()).then(|| Upload::new(incoming, http1.then_some(STALL_LIMIT)));
    if let Some(upload) = &upload {
        exchange.set_upload(upload);
        if http1 {
            headers::frame(&mut head.headers);
        }
    }
    let limits = way.limits(exchange.started());
    if let Some(deadline) = limits.deadline.filter(|_| way.endpoints.again.is_none()) {
        // for the application, which may tell those that it calls
        deadline::tell(&mut head.headers, deadline.saturating_duration_since(Instant::now()));
    }
    if upload.as_ref().is_some_and(|upload| upload.borrow().is_long()) {
        headers::detach(&mut head);
    }
    let template = Template::new(head, upload);
    let sent = retry::send(&front.worker, way.endpoints, limits, exchange.metrics(), &template).await;
    let grpc = template.is_grpc();
    if !way.mirrors.is_empty() && sent.as_ref().map_or_else(|unanswered| unanswered.seen, |_| true) {
        let given = limits.deadline.map(|at| at.saturating_duration_since(exchange.started()));
        way.mirrors.copy(&front.worker, template, given);
    }
    let Answer { mut response, lease, pending } = match sent {
        Ok(answer) => answer,
        Err(unanswered) => return Err((unanswered.reject, exchange)),
    };
    let endpoint = pending.member().pool.endpoint();
    exchange.set_endpoint(endpoint.address);
    exchange.answered(response.status());
    let meshed = endpoint.identity.is_some();
    if meshed
        && grpc
        && let Some(reason) = peers_reason(&response)
    {
        let refusal = reject::to_grpc(response.status(), &reason, "said by the other side's proxy");
        exchange.complete();
        lease.discard(response);
        return Ok(refusal);
    }
    let refused = meshed && limits.deadline.is_some() && peers_reason(&response).is_some();
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switching {
        let agreed = way.asked.websocket && headers::strip_hop_by_hop(response.headers_mut()).websocket;
        if !agreed {
            return Err((reject::BAD_UPGRADE, exchange));
        }
    }
    dress(&mut response, http1, meshed);
    if switching {
        headers::confirm_websocket(response.headers_mut());
        front.set_tunnel(Tunnel { server: hyper::upgrade::on(&mut response), pending, exchange });
        return Ok(response.map(|_| ProxyBody::Empty));
    }
    // a peer that says that the time is over has the last word
    let deadline = limits.deadline.filter(|_| !refused);
    Ok(response.map(|incoming| {
        let pace = (http1 && !Pace::is_short(&incoming.size_hint())).then(|| front.pace.clone());
        ProxyBody::Download(Download::new(incoming, (lease, pending), exchange, deadline, pace))
    }))
}

impl Way<'_> {
    /// The shorter of what the policy and what the caller says.
    fn limits(&self, started: Instant) -> Limits {
        let Timeouts { request, backend_request, .. } = self.timeouts;
        let is_own = request.is_some_and(|own| self.told.is_none_or(|told| own <= told));
        let limit = if is_own { request } else { self.told };
        Limits { one_try: backend_request, deadline: limit.map(|limit| started + limit), is_own }
    }
}

/// Why the peer's proxy itself answered, if it did.
fn peers_reason(response: &Response<Incoming>) -> Option<String> {
    let reason = response.headers().get(reject::REASON)?;
    (response.status() != StatusCode::OK).then(|| reason.to_str().ok().map(str::to_owned))?
}

/// Removes what concerned the hop behind us, and what only proxies may say if no proxy said it.
fn dress<B>(response: &mut Response<B>, http1: bool, meshed: bool) {
    if http1 {
        *response.version_mut() = Version::HTTP_11;
        // framed by its chunks, a length beside them would be a second opinion
        if response.headers().contains_key(header::TRANSFER_ENCODING) {
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
    }
    let fields = response.headers_mut();
    headers::strip_hop_by_hop(fields);
    if meshed {
        fields.remove(reject::RETRY);
    } else {
        headers::strip_reserved(fields);
    }
}
