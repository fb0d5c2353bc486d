//! What can be wrong with an HTTP/1 message, and how it is answered.

use http::{Request, StatusCode};
use thiserror::Error;

/// A breach of RFC 9110 or 9112 that another reader might take for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// A line that ends with a bare line feed.
    #[error("a line ends with LF instead of CRLF")]
    BareLineFeed,
    /// Not `method SP target SP version`.
    #[error("the request line is not 'method target version'")]
    RequestLine,
    /// A target that is neither a path nor `http://` with a path nor `*`, or one with a fragment.
    #[error("the request target is malformed")]
    Target,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    Version,
    /// CONNECT would make the proxy a tunnel.
    #[error("CONNECT is not supported")]
    Connect,
    /// A name that is no token, a space before the colon, a line without a colon.
    #[error("a header name is malformed")]
    HeaderName,
    /// A control character.
    #[error("a header value has a control character")]
    HeaderValue,
    /// A line that continues the one before (obs-fold).
    #[error("a header is continued on the next line")]
    Folded,
    /// A name with `_` that some servers read as a reserved one.
    #[error("a header name is a reserved one spelled with an underscore")]
    Shadowed,
    /// Not plain digits, or leading zeros, or more than 2^63.
    #[error("content-length is not a plain number")]
    ContentLength,
    /// More than one Content-Length.
    #[error("content-length is repeated")]
    RepeatedLength,
    /// Anything but one `chunked`, in HTTP/1.1.
    #[error("transfer-encoding is not exactly 'chunked'")]
    TransferEncoding,
    /// Both framings at once.
    #[error("content-length and transfer-encoding are both there")]
    TwoFramings,
    /// A body before WebSocket, which begins with a GET without one (RFC 6455 section 4.1).
    #[error("a request to upgrade to WebSocket has a body")]
    UpgradeWithBody,
    /// HTTP/1.1 without Host.
    #[error("the host header is missing")]
    HostMissing,
    /// More than one Host, or one that is no `host[:port]`.
    #[error("the host header is not exactly one host")]
    Host,
    /// Host and the target's authority are two different ones.
    #[error("the host header differs from the request target")]
    HostMismatch,
    /// More than 8 KiB of target.
    #[error("the request target is longer than 8 KiB")]
    TargetTooLong,
    /// More than 16 KiB of head.
    #[error("the head is longer than 16 KiB")]
    HeadTooLarge,
    /// More than 100 headers.
    #[error("there are more than 100 headers")]
    TooManyHeaders,
    /// A head (or a line of framing) that did not end in time.
    #[error("the head did not end in time")]
    Timeout,
    /// A chunk size line that is malformed.
    #[error("a chunk size is malformed")]
    ChunkSize,
    /// No CRLF after a chunk.
    #[error("a chunk does not end with CRLF")]
    ChunkEnd,
    /// A trailer that is malformed or that no trailer may be.
    #[error("a trailer is malformed or not allowed")]
    Trailer,
}

use Violation as V;

const ALL: [Violation; 24] = [
    V::BareLineFeed,
    V::RequestLine,
    V::Target,
    V::Version,
    V::Connect,
    V::HeaderName,
    V::HeaderValue,
    V::Folded,
    V::Shadowed,
    V::ContentLength,
    V::RepeatedLength,
    V::TransferEncoding,
    V::TwoFramings,
    V::UpgradeWithBody,
    V::HostMissing,
    V::Host,
    V::HostMismatch,
    V::TargetTooLong,
    V::HeadTooLarge,
    V::TooManyHeaders,
    V::Timeout,
    V::ChunkSize,
    V::ChunkEnd,
    V::Trailer,
];

/// The method of the request that stands in for a bad one. The guard lets no client say it.
pub(super) const STAND_IN: &str = "BYRNIE-REFUSE";

impl Violation {
    /// The status that the request is answered with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Connect => StatusCode::NOT_IMPLEMENTED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge | Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// A short kebab-case reason, for the `byrnie-reason` header, metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::RequestLine | Self::Version => "bad-request-line",
            Self::Target => "bad-target",
            Self::Connect => "connect-refused",
            Self::BareLineFeed | Self::HeaderName | Self::HeaderValue | Self::Folded | Self::Shadowed => {
                "bad-header"
            }
            Self::ContentLength | Self::RepeatedLength | Self::TransferEncoding | Self::TwoFramings => {
                "bad-framing"
            }
            Self::UpgradeWithBody => "upgrade-with-body",
            Self::HostMissing | Self::Host | Self::HostMismatch => "bad-host",
            Self::TargetTooLong => "target-too-long",
            Self::HeadTooLarge | Self::TooManyHeaders => "head-too-large",
            Self::Timeout => "head-timeout",
            Self::ChunkSize | Self::ChunkEnd | Self::Trailer => "bad-chunk",
        }
    }

    /// The request that is handed over instead of the bad one.
    pub(super) fn stand_in(self) -> Vec<u8> {
        let index = ALL.iter().position(|v| *v == self).unwrap_or_default();
        format!("{STAND_IN} /{index} HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n").into_bytes()
    }
}

/// What was wrong with the request for which this one stands in; `None` for every other request.
pub fn refusal<B>(request: &Request<B>) -> Option<Violation> {
    if request.method().as_str() != STAND_IN {
        return None;
    }
    let index = request.uri().path().strip_prefix('/').and_then(|i| i.parse::<usize>().ok());
    Some(index.and_then(|i| ALL.get(i).copied()).unwrap_or(Violation::RequestLine))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_says_what_it_stands_for() {
        for violation in ALL {
            let text = String::from_utf8(violation.stand_in()).unwrap();
            let mut words = text.split(' ');
            let request =
                Request::builder().method(words.next().unwrap()).uri(words.next().unwrap()).body(()).unwrap();
            assert_eq!(refusal(&request), Some(violation));
            assert!(violation.status().is_client_error() || violation.status().is_server_error());
        }
        assert_eq!(refusal(&Request::new(())), None);
    }
}
