//! Every answer of our own making: status, reason, one line of text.
//!
//! The text says what happened and what to check, never whose policy it was nor anything that the caller sent.

use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{body::ProxyBody, http1_guard::Violation};

/// Says in one kebab-case word why a proxy answered itself.
pub const REASON: HeaderName = HeaderName::from_static("byrnie-reason");
/// Between proxies, in one word, what is known about sending the request again: [`UNDELIVERED`], [`UNANSWERED`], [`BUSY`],
/// [`NEVER`].
pub const RETRY: HeaderName = HeaderName::from_static("byrnie-retry");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// An answer of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Status.
    pub status: StatusCode,
    /// For the header, the metrics and the log.
    pub reason: &'static str,
    /// For people.
    pub text: &'static str,
    /// What a peer is told about sending the request again.
    pub retry: Option<&'static str>,
}

/// No application has seen the request.
pub const UNDELIVERED: &str = "safe";
/// One may have seen it, and did not begin to answer.
pub const UNANSWERED: &str = "idempotent";
/// None has seen it, because it has too much to do: elsewhere, and seldom.
pub const BUSY: &str = "busy";
/// Whom it called has been asked again already.
pub const NEVER: &str = "never";

const fn reject(status: StatusCode, reason: &'static str, text: &'static str) -> Reject {
    Reject { status, reason, text, retry: None }
}

const fn undelivered(status: StatusCode, reason: &'static str, text: &'static str) -> Reject {
    Reject { status, reason, text, retry: Some(UNDELIVERED) }
}

const BAD: StatusCode = StatusCode::BAD_REQUEST;
const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
const GATEWAY: StatusCode = StatusCode::BAD_GATEWAY;

// the front door
pub const BAD_HOST: Reject = reject(BAD, "bad-host", "the request needs exactly one valid host");
pub const BAD_TARGET: Reject = reject(BAD, "bad-target", "the request target is not a path of this server");
pub const BAD_HEADER: Reject = reject(BAD, "bad-header", "a header is malformed or imitates a reserved one");
pub const BAD_EXPECT: Reject = reject(
    StatusCode::EXPECTATION_FAILED,
    "bad-expect",
    "the only expectation that is understood is 100-continue",
);
pub const CONNECT: Reject =
    reject(StatusCode::NOT_IMPLEMENTED, "connect-refused", "CONNECT is not served here");
pub const BODY_CUT: Reject =
    reject(BAD, "body-cut", "the request's body is malformed, or ended or paused too early");
pub const LONG_TARGET: Reject =
    reject(StatusCode::URI_TOO_LONG, "target-too-long", "the request target exceeds 8 KiB");
pub const LARGE_HEAD: Reject = reject(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "head-too-large",
    "the headers exceed 16 KiB or 100 fields",
);

// a forward proxy's listener
pub const NO_HOST_ASKED: Reject = reject(
    BAD,
    "no-host-asked",
    "this is a forward proxy: name it in http_proxy, or ask it for http://host/path",
);
pub const UNKNOWN_HOST: Reject = reject(
    StatusCode::FORBIDDEN,
    "unknown-host",
    "the host is no service of the proxy's configuration, which lets nothing else through",
);
pub const FORBIDDEN_HOST: Reject = reject(
    StatusCode::FORBIDDEN,
    "forbidden-host",
    "nobody is let through to the proxy itself or to link-local addresses",
);
pub const NO_ADDRESS: Reject =
    undelivered(GATEWAY, "no-address", "DNS has no address for the host; is the name right?");

// outbound
pub const DISCOVERY_TIMEOUT: Reject = undelivered(
    UNAVAILABLE,
    "discovery-timeout",
    "the destination is not known yet; is the control plane reachable?",
);
pub const NO_ROUTE: Reject =
    undelivered(StatusCode::NOT_FOUND, "no-route", "no route of the destination matches");
pub const NO_ENDPOINTS: Reject =
    undelivered(UNAVAILABLE, "no-endpoints", "the destination has no ready endpoints");
pub const NO_HEALTHY_ENDPOINTS: Reject = undelivered(
    UNAVAILABLE,
    "no-healthy-endpoints",
    "no endpoint of the destination takes connections, for seconds now; it is tried again each second",
);
pub const CONNECT_FAILED: Reject =
    undelivered(UNAVAILABLE, "connect-failed", "no endpoint of the destination took a connection");
pub const HANDSHAKE_FAILED: Reject =
    undelivered(UNAVAILABLE, "handshake-failed", "the endpoint did not prove the expected identity");
pub const POOL_FULL: Reject =
    undelivered(UNAVAILABLE, "too-many-connections", "the endpoint has no free connection");
pub const RESET: Reject = reject(GATEWAY, "upstream-reset", "the connection ended before the response began");
pub const BAD_UPGRADE: Reject =
    reject(GATEWAY, "bad-upgrade", "the server switched to a protocol nobody asked for");
pub const REQUEST_TIMEOUT: Reject =
    reject(StatusCode::GATEWAY_TIMEOUT, "request-timeout", "the response did not arrive in time");
pub const BACKEND_TIMEOUT: Reject =
    reject(StatusCode::GATEWAY_TIMEOUT, "backend-timeout", "no endpoint that was asked answered in time");
pub const FAULT: Reject = reject(UNAVAILABLE, "fault-injected", "a policy has some requests fail on purpose");
pub const OVERLOADED: Reject = Reject {
    retry: Some(BUSY),
    ..reject(UNAVAILABLE, "overloaded", "the application has more to do than it can; try again later")
};

// inbound
pub const DENIED: &str = "the caller is not allowed to make this request";
pub const APP_REFUSED: Reject =
    undelivered(UNAVAILABLE, "app-refused", "the application does not take connections");
pub const APP_RESET: Reject = Reject {
    retry: Some(UNANSWERED),
    ..reject(GATEWAY, "app-reset", "the application ended the connection before it answered")
};
pub const RATE_LIMITED: Reject = reject(
    StatusCode::TOO_MANY_REQUESTS,
    "rate-limited",
    "there are more requests per second than the policy of the application lets in",
);
pub const POLICY_UNKNOWN: Reject = undelivered(
    UNAVAILABLE,
    "policy-unknown",
    "the server's policy is not known yet; is the control plane reachable?",
);

impl Reject {
    /// The refusal of a policy.
    pub fn denied(denial: &byrnie_model::Denial<'_>) -> Self {
        match denial {
            byrnie_model::Denial::Path(..) => reject(BAD, denial.reason(), "the request path is ambiguous"),
            _ => reject(StatusCode::FORBIDDEN, denial.reason(), DENIED),
        }
    }

    /// What the guard found in the raw bytes.
    pub fn violation(violation: Violation) -> Self {
        let text = match violation.reason() {
            "bad-request-line" => "the request line is malformed",
            "bad-target" => BAD_TARGET.text,
            "bad-header" => BAD_HEADER.text,
            "bad-framing" => "the length of the body is not said in exactly one way",
            "upgrade-with-body" => "a request to upgrade to WebSocket has no body",
            "bad-host" => BAD_HOST.text,
            "connect-refused" => CONNECT.text,
            "target-too-long" => LONG_TARGET.text,
            "head-too-large" => LARGE_HEAD.text,
            "head-timeout" => "the request's head did not arrive in time",
            _ => "the request is malformed",
        };
        reject(violation.status(), violation.reason(), text)
    }

    /// The answer to an application, our own; to callers of gRPC in its words.
    pub fn to_app(self, grpc: bool) -> Response<ProxyBody> {
        if grpc {
            return to_grpc(self.status, self.reason, self.text);
        }
        let line = format!("byrnie: {}: {}\n", self.reason, self.text);
        let mut response = Response::new(ProxyBody::Full(line.into()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(REASON, HeaderValue::from_static(self.reason));
        response
    }

    /// The answer to a CONNECT, whole.
    pub fn to_asker(self) -> String {
        let Self { status, reason, text, .. } = self;
        let line = format!("byrnie: {reason}: {text}\n");
        format!(
            "HTTP/1.1 {status}\r\n{REASON}: {reason}\r\ncontent-type: text/plain; charset=utf-8\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{line}",
            line.len()
        )
    }

    /// The answer to a peer, which tells the caller's proxy whether the request may go to another endpoint.
    pub fn to_peer(self) -> Response<ProxyBody> {
        let mut response = self.to_app(false);
        if let Some(word) = self.retry {
            response.headers_mut().insert(RETRY, HeaderValue::from_static(word));
        }
        response
    }
}

/// A refusal as callers of gRPC understand it: no body, and all of it in the head ("Trailers-Only").
pub fn to_grpc(status: StatusCode, reason: &str, text: &str) -> Response<ProxyBody> {
    // as gRPC's own mapping from HTTP has it, but for deadlines
    let code = match status {
        StatusCode::GATEWAY_TIMEOUT => 4,
        StatusCode::FORBIDDEN => 7,
        StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => 12,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::TOO_MANY_REQUESTS => 14,
        _ => 13,
    };
    let mut response = Response::new(ProxyBody::Empty);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(code));
    // no text of ours needs the escapes of this header
    if let Ok(message) = HeaderValue::try_from(format!("byrnie: {reason}: {text}")) {
        headers.insert(GRPC_MESSAGE, message);
    }
    if let Ok(reason) = HeaderValue::try_from(reason) {
        headers.insert(REASON, reason);
    }
    response
}
