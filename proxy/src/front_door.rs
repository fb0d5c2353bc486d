//! What a request must look like before anything is decided about it (reliability rules on HTTP/1 acceptance).
//!
//! Works on parsed requests; what only shows in the raw bytes is caught before. What passes here means the same to
//! every application: one host, one target, one framing. Nothing is repaired that could be meant differently.

use byrnie_model::HttpRequest;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header, uri};

use crate::{
    headers,
    reject::{self, Reject},
};

/// Longest request target.
const MAX_URI: usize = 8 * 1024;
/// Most header fields; their total size is limited by the connection's parser.
const MAX_HEADERS: usize = 100;

/// Checks a request and brings its target into the one form that is forwarded. `fallback_host` is the host of
/// HTTP/1.0 requests that name none.
pub fn admit<B>(request: &mut Request<B>, fallback_host: impl FnOnce() -> String) -> Result<(), Reject> {
    if request.method() == Method::CONNECT {
        return Err(reject::CONNECT);
    }
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > MAX_URI {
        return Err(reject::LONG_URI);
    }
    let fields = request.headers();
    if fields.len() > MAX_HEADERS {
        return Err(reject::LARGE_HEADERS);
    }
    if fields.keys().any(|name| headers::imitates(name.as_str())) {
        return Err(reject::BAD_HEADER_NAME);
    }
    if let Some(expectation) = fields.get(header::EXPECT) {
        if !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue") {
            return Err(reject::BAD_EXPECT);
        }
        // answered on this hop, when the body is first asked for
        request.headers_mut().remove(header::EXPECT);
    }
    if request.version() == Version::HTTP_2 { admit_http2(request) } else { admit_http1(request, fallback_host) }
}

/// The host that a request names, as sent.
pub fn host<B>(request: &Request<B>) -> &str {
    match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

/// What rules and routes see of a request.
pub fn view<B>(request: &Request<B>) -> HttpRequest<'_> {
    HttpRequest {
        method: request.method().as_str(),
        path: request.uri().path(),
        host: host(request),
        headers: request.headers(),
    }
}

fn admit_http1<B>(request: &mut Request<B>, fallback_host: impl FnOnce() -> String) -> Result<(), Reject> {
    check_framing(request.headers())?;
    let host = single_host(request.headers())?;
    if host.is_none() {
        if request.version() != Version::HTTP_10 || request.uri().authority().is_some() {
            return Err(reject::BAD_HOST);
        }
        let host = HeaderValue::try_from(fallback_host()).map_err(|_| reject::BAD_HOST)?;
        request.headers_mut().insert(header::HOST, host);
    }
    *request.version_mut() = Version::HTTP_11;
    let target = request.uri();
    match (target.scheme(), target.authority()) {
        (None, None) => {}
        (Some(scheme), Some(authority)) if *scheme == uri::Scheme::HTTP => {
            let same = request.headers().get(header::HOST).is_some_and(|host| {
                host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())
            });
            if !same {
                return Err(reject::HOST_MISMATCH);
            }
            let path = target.path_and_query().cloned().ok_or(reject::BAD_TARGET)?;
            *request.uri_mut() = path.into();
        }
        _ => return Err(reject::BAD_TARGET),
    }
    check_target(request)
}

fn admit_http2<B>(request: &mut Request<B>) -> Result<(), Reject> {
    let host = single_host(request.headers())?;
    match (request.uri().authority(), host) {
        (None, None) => return Err(reject::BAD_HOST),
        (Some(authority), _) if !is_host(authority.as_str().as_bytes()) => return Err(reject::BAD_HOST),
        (Some(authority), Some(host)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            return Err(reject::HOST_MISMATCH);
        }
        (Some(_), _) => {}
        (None, Some(host)) => {
            let authority = uri::Authority::try_from(host.as_bytes()).map_err(|_| reject::BAD_HOST)?;
            let mut parts = request.uri().clone().into_parts();
            parts.scheme.get_or_insert(uri::Scheme::HTTP);
            parts.authority = Some(authority);
            *request.uri_mut() = Uri::from_parts(parts).map_err(|_| reject::BAD_TARGET)?;
        }
    }
    if request.headers().contains_key(header::HOST) {
        request.headers_mut().remove(header::HOST);
    }
    check_target(request)
}

/// `chunked`, once, or nothing.
fn check_framing(fields: &HeaderMap) -> Result<(), Reject> {
    let mut codings = fields.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            if fields.contains_key(header::CONTENT_LENGTH) { Err(reject::BAD_FRAMING) } else { Ok(()) }
        }
        _ => Err(reject::BAD_FRAMING),
    }
}

fn single_host(fields: &HeaderMap) -> Result<Option<&HeaderValue>, Reject> {
    let mut hosts = fields.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => Ok(None),
        (Some(host), None) if is_host(host.as_bytes()) => Ok(Some(host)),
        _ => Err(reject::BAD_HOST),
    }
}

/// A name or address with an optional port; no user, list, path or white space.
fn is_host(host: &[u8]) -> bool {
    let of_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'%' | b':' | b'[' | b']');
    !host.is_empty() && host.iter().all(of_name)
}

/// A path, or `*` for OPTIONS.
fn check_target<B>(request: &Request<B>) -> Result<(), Reject> {
    match request.uri().path() {
        "*" if request.method() == Method::OPTIONS => Ok(()),
        path if path.starts_with('/') => Ok(()),
        _ => Err(reject::BAD_TARGET),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, method: &str, uri: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().version(version).method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn admitted(mut request: Request<()>) -> Result<Request<()>, &'static str> {
        admit(&mut request, || "10.0.0.1:80".to_owned()).map(|()| request).map_err(|reject| reject.reason)
    }

    #[test]
    fn http1_requests_that_mean_one_thing_pass() {
        let plain = admitted(request(Version::HTTP_11, "GET", "/a?b", &[("host", "x:80")])).unwrap();
        assert_eq!((plain.uri().to_string().as_str(), host(&plain)), ("/a?b", "x:80"));
        let absolute = admitted(request(Version::HTTP_11, "get", "http://X/a", &[("host", "x")])).unwrap();
        assert_eq!((absolute.uri().to_string().as_str(), absolute.method().as_str()), ("/a", "get"));
        let old = admitted(request(Version::HTTP_10, "GET", "/", &[])).unwrap();
        assert_eq!((old.version(), host(&old)), (Version::HTTP_11, "10.0.0.1:80"));
        let expects = request(Version::HTTP_11, "PUT", "/", &[("host", "x"), ("expect", "100-Continue")]);
        assert!(!admitted(expects).unwrap().headers().contains_key("expect"));
        assert!(admitted(request(Version::HTTP_11, "OPTIONS", "*", &[("host", "[::1]:80")])).is_ok());
        assert!(admitted(request(Version::HTTP_11, "POST", "/", &[("host", "x"), ("transfer-encoding", "Chunked")])).is_ok());
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        let host = ("host", "x");
        let long = format!("/{}", "a".repeat(MAX_URI));
        for (method, uri, fields, reason) in [
            ("GET", "/", &[][..], "bad-host"),
            ("GET", "/", &[host, ("host", "y")], "bad-host"),
            ("GET", "/", &[host, host], "bad-host"),
            ("GET", "/", &[("host", "a, b")], "bad-host"),
            ("GET", "/", &[("host", "")], "bad-host"),
            ("GET", "/", &[("host", "u@x")], "bad-host"),
            ("GET", "/", &[("host", "x/y")], "bad-host"),
            ("GET", "http://y/", &[host], "host-mismatch"),
            ("GET", "http://u@x/", &[host], "host-mismatch"),
            ("GET", "https://x/", &[host], "bad-target"),
            ("CONNECT", "x:80", &[host], "connect-refused"),
            ("GET", "*", &[host], "bad-target"),
            ("POST", "/", &[host, ("transfer-encoding", "identity, chunked")], "bad-framing"),
            ("POST", "/", &[host, ("transfer-encoding", "gzip, chunked")], "bad-framing"),
            ("POST", "/", &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], "bad-framing"),
            ("POST", "/", &[host, ("transfer-encoding", "chunked"), ("content-length", "3")], "bad-framing"),
            ("POST", "/", &[host, ("transfer-encoding", "xchunked")], "bad-framing"),
            ("GET", "/", &[host, ("byrnie_client_id", "x")], "bad-header-name"),
            ("GET", "/", &[host, ("transfer_encoding", "chunked")], "bad-header-name"),
            ("GET", "/", &[host, ("expect", "the-unexpected")], "bad-expect"),
            ("GET", &long, &[host], "uri-too-long"),
        ] {
            assert_eq!(admitted(request(Version::HTTP_11, method, uri, fields)).unwrap_err(), reason, "{method} {uri} {fields:?}");
        }
    }

    #[test]
    fn http2_has_one_authority() {
        let one = admitted(request(Version::HTTP_2, "GET", "http://x/a", &[("host", "X")])).unwrap();
        assert!(!one.headers().contains_key("host"));
        let from_host = admitted(request(Version::HTTP_2, "GET", "/a", &[("host", "y:8080")])).unwrap();
        assert_eq!((host(&from_host), from_host.uri().path()), ("y:8080", "/a"));
        for (uri, fields, reason) in [
            ("http://x/", &[("host", "y")][..], "host-mismatch"),
            ("/", &[], "bad-host"),
            ("http://u@x/", &[], "bad-host"),
        ] {
            assert_eq!(admitted(request(Version::HTTP_2, "GET", uri, fields)).unwrap_err(), reason);
        }
    }
}
