//! What a request must look like before anything is decided about it, and the one form in which it travels on.
//!
//! HTTP/1 has been through the guard, which saw the raw bytes; the same is asked of HTTP/2 here. Nothing is repaired
//! that could be meant differently.

use byrnie_model::HttpRequest;
use http::{HeaderValue, Method, Request, Uri, Version, header, uri};

use crate::{
    headers,
    http1_guard::refusal,
    reject::{self, Reject},
};

/// Longest request target.
const MAX_TARGET: usize = 8 * 1024;
/// Most header fields; HTTP/2 limits their total size by itself.
const MAX_HEADERS: usize = 100;

/// Checks a request and brings its target into the form that is forwarded. `fallback_host` is the host of HTTP/1.0
/// requests that name none.
pub fn admit<B>(request: &mut Request<B>, fallback_host: impl FnOnce() -> String) -> Result<(), Reject> {
    if request.version() == Version::HTTP_2 {
        admit_http2(request)?;
    } else {
        admit_http1(request, fallback_host)?;
    }
    if let Some(expectation) = request.headers().get(header::EXPECT) {
        if !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue") {
            return Err(reject::BAD_EXPECT);
        }
        // answered on this hop, when the body is first asked for
        request.headers_mut().remove(header::EXPECT);
    }
    Ok(())
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

fn host<B>(request: &Request<B>) -> &str {
    match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

fn admit_http1<B>(request: &mut Request<B>, fallback_host: impl FnOnce() -> String) -> Result<(), Reject> {
    if let Some(violation) = refusal(request) {
        return Err(Reject::violation(violation));
    }
    if request.version() == Version::HTTP_10 {
        *request.version_mut() = Version::HTTP_11;
        if !request.headers().contains_key(header::HOST) {
            let authority = request.uri().authority().map(ToString::to_string);
            let host = HeaderValue::try_from(authority.unwrap_or_else(fallback_host));
            request.headers_mut().insert(header::HOST, host.map_err(|_| reject::BAD_HOST)?);
        }
    }
    if request.uri().authority().is_some() {
        // the guard has compared it with Host
        let path = request.uri().path_and_query().cloned().ok_or(reject::BAD_TARGET)?;
        *request.uri_mut() = path.into();
    }
    Ok(())
}

fn admit_http2<B>(request: &mut Request<B>) -> Result<(), Reject> {
    if request.method() == Method::CONNECT {
        return Err(reject::CONNECT);
    }
    let fields = request.headers();
    if request.uri().path_and_query().map_or(0, |target| target.as_str().len()) > MAX_TARGET {
        return Err(reject::LONG_TARGET);
    }
    if fields.len() > MAX_HEADERS {
        return Err(reject::LARGE_HEAD);
    }
    if fields.keys().any(|name| headers::imitates(name.as_str())) {
        return Err(reject::BAD_HEADER);
    }
    match request.uri().path() {
        "*" if request.method() == Method::OPTIONS => {}
        path if path.starts_with('/') => {}
        _ => return Err(reject::BAD_TARGET),
    }
    let mut hosts = fields.get_all(header::HOST).iter();
    let (host, None) = (hosts.next(), hosts.next()) else { return Err(reject::BAD_HOST) };
    match (request.uri().authority(), host) {
        (Some(authority), Some(host))
            if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return Err(reject::BAD_HOST);
        }
        (Some(authority), _) if authority.as_str().contains('@') => return Err(reject::BAD_HOST),
        (Some(_), _) => {}
        (None, Some(host)) if !host.as_bytes().contains(&b'@') => {
            let authority = uri::Authority::try_from(host.as_bytes()).map_err(|_| reject::BAD_HOST)?;
            let mut parts = request.uri().clone().into_parts();
            parts.scheme.get_or_insert(uri::Scheme::HTTP);
            parts.authority = Some(authority);
            *request.uri_mut() = Uri::from_parts(parts).map_err(|_| reject::BAD_TARGET)?;
        }
        (None, _) => return Err(reject::BAD_HOST),
    }
    request.headers_mut().remove(header::HOST);
    Ok(())
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
    fn http1_is_brought_into_one_form() {
        let plain = admitted(request(Version::HTTP_11, "GET", "/a?b", &[("host", "x:80")])).unwrap();
        assert_eq!((plain.uri().to_string().as_str(), host(&plain)), ("/a?b", "x:80"));
        let absolute = admitted(request(Version::HTTP_11, "get", "http://X/a", &[("host", "x")])).unwrap();
        assert_eq!((absolute.uri().to_string().as_str(), absolute.method().as_str()), ("/a", "get"));
        let bare = admitted(request(Version::HTTP_11, "GET", "http://x", &[("host", "x")])).unwrap();
        assert_eq!(bare.uri().to_string(), "/");
        let old = admitted(request(Version::HTTP_10, "GET", "/", &[])).unwrap();
        assert_eq!((old.version(), host(&old)), (Version::HTTP_11, "10.0.0.1:80"));
        let old = admitted(request(Version::HTTP_10, "GET", "http://y/", &[])).unwrap();
        assert_eq!((old.uri().to_string().as_str(), host(&old)), ("/", "y"));
    }

    #[test]
    fn expectations_are_of_one_hop() {
        let expecting =
            |what| admitted(request(Version::HTTP_11, "PUT", "/", &[("host", "x"), ("expect", what)]));
        assert!(!expecting("100-Continue").unwrap().headers().contains_key("expect"));
        assert_eq!(expecting("the-unexpected").unwrap_err(), "bad-expect");
    }

    #[test]
    fn http2_has_one_authority_and_no_imitations() {
        let one = admitted(request(Version::HTTP_2, "GET", "http://x/a", &[("host", "X")])).unwrap();
        assert!(!one.headers().contains_key("host"));
        let from_host = admitted(request(Version::HTTP_2, "GET", "/a", &[("host", "y:8080")])).unwrap();
        assert_eq!((host(&from_host), from_host.uri().path()), ("y:8080", "/a"));
        let long = format!("http://x/{}", "a".repeat(MAX_TARGET));
        for (method, uri, fields, reason) in [
            ("GET", "http://x/", &[("host", "y")][..], "bad-host"),
            ("GET", "http://x/", &[("host", "x"), ("host", "x")], "bad-host"),
            ("GET", "/", &[], "bad-host"),
            ("GET", "/", &[("host", "a, b")], "bad-host"),
            ("GET", "http://u@x/", &[], "bad-host"),
            ("GET", "/", &[("host", "u@x")], "bad-host"),
            ("GET", "http://x/", &[("byrnie_client_id", "x")], "bad-header"),
            ("GET", "http://x/", &[("transfer_encoding", "chunked")], "bad-header"),
            ("CONNECT", "x:80", &[], "connect-refused"),
            ("GET", &long, &[], "target-too-long"),
        ] {
            assert_eq!(
                admitted(request(Version::HTTP_2, method, uri, fields)).unwrap_err(),
                reason,
                "{method} {uri}"
            );
        }
    }
}
