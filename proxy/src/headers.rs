//! What of a message's headers may cross the proxy (RFC 9110 section 7.6.1), and which names are ours.
//!
//! Hop-by-hop fields go first, our own are set afterwards: nobody can nominate ours for removal.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header, request, uri::PathAndQuery};

/// Set by the inbound proxy towards the application: who called.
pub const CLIENT_ID: HeaderName = HeaderName::from_static("byrnie-client-id");

const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const TE: HeaderValue = HeaderValue::from_static("te");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// What the removed hop-by-hop fields asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Asked {
    /// `Connection: upgrade` and `Upgrade: websocket`.
    pub websocket: bool,
    /// `TE: trailers`.
    pub trailers: bool,
}

/// Copies what a head has taken from the buffer that it was read into: while its body comes in, nothing else of that
/// buffer is needed.
pub fn detach(head: &mut request::Parts) {
    let mut copy = BytesMut::with_capacity(head.headers.values().map(HeaderValue::len).sum());
    head.headers.values().for_each(|value| copy.extend_from_slice(value.as_bytes()));
    let mut copy = copy.freeze();
    for value in head.headers.values_mut() {
        if let Ok(same) = HeaderValue::from_maybe_shared(copy.split_to(value.len())) {
            *value = same;
        }
    }
    if head.uri.authority().is_none()
        && let Some(target) = head.uri.path_and_query()
        && let Ok(same) = PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(target.as_str().as_bytes()))
    {
        head.uri = Uri::from(same);
    }
}

/// Whether a name is reserved for proxies, in any spelling that an application might read as one of them.
pub fn is_reserved(name: &str) -> bool {
    let same = |reserved: &str| {
        name.len() >= reserved.len()
            && name
                .bytes()
                .zip(reserved.bytes())
                .all(|(n, r)| n.to_ascii_lowercase() == r || (n == b'_' && r == b'-'))
    };
    same("byrnie-") || same("x-byrnie-") || (name.len() == 23 && same("x-forwarded-client-cert"))
}

/// Whether a name with underscores imitates one that decides about framing, routing or identity. Many servers
/// (CGI, WSGI) read both as the same.
pub fn imitates(name: &str) -> bool {
    const SHADOWED: [&str; 12] = [
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-for",
    ];
    name.contains('_') && (is_reserved(name) || SHADOWED.contains(&name.replace('_', "-").as_str()))
}

/// Removes what concerns one hop only, and says what it asked for.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) -> Asked {
    if !headers.keys().any(is_hop_by_hop) {
        return Asked::default();
    }
    let trailers = list(headers, &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    let mut protocols = list(headers, &header::UPGRADE);
    let only_websocket =
        protocols.next().is_some_and(|p| p.eq_ignore_ascii_case("websocket")) && protocols.next().is_none();
    drop(protocols);
    let mut upgrade = false;
    let mut nominated: Vec<HeaderName> = Vec::new();
    for token in list(headers, &header::CONNECTION) {
        upgrade |= token.eq_ignore_ascii_case("upgrade");
        // the most usual one goes anyway
        if !token.eq_ignore_ascii_case("keep-alive") {
            nominated.extend(token.parse().ok().filter(may_be_nominated));
        }
    }
    for name in nominated {
        headers.remove(name);
    }
    remove_all(headers, is_hop_by_hop);
    Asked { websocket: upgrade && only_websocket, trailers }
}

/// Whether there is a name that only proxies may set.
pub fn has_reserved(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| is_reserved(name.as_str()))
}

/// Removes the names that only proxies may set.
pub fn strip_reserved(headers: &mut HeaderMap) {
    remove_all(headers, |name| is_reserved(name.as_str()));
}

/// Removes from trailers what they must not carry (RFC 9110 section 6.5.1) and what only proxies may set.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    strip_reserved(trailers);
    for name in
        [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION, header::COOKIE, header::SET_COOKIE]
    {
        trailers.remove(name);
    }
}

/// Asks on our own hop for what was asked of us.
pub fn ask(headers: &mut HeaderMap, asked: Asked, version: Version) {
    if asked.websocket {
        headers.insert(header::CONNECTION, UPGRADE);
        headers.insert(header::UPGRADE, WEBSOCKET);
    } else if asked.trailers {
        headers.insert(header::TE, TRAILERS);
        if version < Version::HTTP_2 {
            headers.insert(header::CONNECTION, TE);
        }
    }
}

/// Says that a body without a length is chunked, on our own hop too. hyper would take a GET or HEAD to have none, and
/// drop it.
pub fn frame(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, CHUNKED);
    }
}

/// Confirms a switch to WebSocket on our own hop.
pub fn confirm_websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, UPGRADE);
    headers.insert(header::UPGRADE, WEBSOCKET);
}

/// The tokens of a comma-separated field, over all its lines.
pub fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

fn remove_all(headers: &mut HeaderMap, which: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = headers.keys().find(|name| which(name)).cloned() {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "keep-alive"
            | "proxy-connection"
            | "http2-settings"
    )
}

/// `Connection` may remove what an intermediary added, never what the message itself depends on.
fn may_be_nominated(name: &HeaderName) -> bool {
    !matches!(
        *name,
        header::HOST
            | header::CONTENT_LENGTH
            | header::CONTENT_TYPE
            | header::CONTENT_ENCODING
            | header::AUTHORIZATION
            | header::COOKIE
            | header::CACHE_CONTROL
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn every_connection_line_counts() {
        let mut headers = map(&[
            ("connection", "close, x-a"),
            ("accept", "*/*"),
            ("connection", "x-b,X-C"),
            ("x-a", "1"),
            ("x-b", "2"),
            ("x-b", "3"),
            ("x-c", "4"),
            ("x-d", "5"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, trailers;q=0.5"),
            ("transfer-encoding", "chunked"),
        ]);
        assert_eq!(strip_hop_by_hop(&mut headers), Asked::default());
        assert_eq!(names(&headers), ["accept", "x-d"]);
    }

    #[test]
    fn what_the_message_depends_on_cannot_be_nominated() {
        let mut headers = map(&[
            ("connection", "host, authorization, content-length"),
            ("host", "a"),
            ("authorization", "b"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["authorization", "host"]);
    }

    #[test]
    fn only_websocket_is_an_upgrade() {
        let asked = |fields: &[(&'static str, &'static str)]| strip_hop_by_hop(&mut map(fields)).websocket;
        assert!(asked(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]));
        assert!(!asked(&[("connection", "upgrade"), ("upgrade", "h2c")]));
        assert!(!asked(&[("connection", "upgrade"), ("upgrade", "websocket, h2c")]));
        assert!(!asked(&[("connection", "keep-alive"), ("upgrade", "websocket")]));
        assert!(!asked(&[("upgrade", "websocket")]));
    }

    #[test]
    fn trailers_are_asked_for_again() {
        let mut headers = map(&[("te", "deflate, Trailers")]);
        let asked = strip_hop_by_hop(&mut headers);
        ask(&mut headers, asked, Version::HTTP_11);
        assert_eq!(
            (headers["te"].to_str().unwrap(), headers["connection"].to_str().unwrap()),
            ("trailers", "te")
        );
        let mut headers = HeaderMap::new();
        ask(&mut headers, asked, Version::HTTP_2);
        assert_eq!(names(&headers), ["te"]);
    }

    #[test]
    fn reserved_names_go_in_every_spelling() {
        for name in [
            "byrnie-client-id",
            "byrnie_client-id",
            "x-byrnie-x",
            "x_byrnie_x",
            "x-forwarded-client_cert",
            "byrnie-",
        ] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["x-byrn", "byrnie", "x-forwarded-client-certs", "my-byrnie-id"] {
            assert!(!is_reserved(name), "{name}");
        }
        let mut headers =
            map(&[("byrnie-client-id", "a"), ("byrnie-client-id", "b"), ("x-byrnie-a", "c"), ("x", "d")]);
        strip_reserved(&mut headers);
        assert_eq!(names(&headers), ["x"]);
    }

    #[test]
    fn imitations_are_told_from_ordinary_underscores() {
        for name in [
            "transfer_encoding",
            "content_length",
            "byrnie_client_id",
            "x_forwarded_client_cert",
            "keep_alive",
        ] {
            assert!(imitates(name), "{name}");
        }
        for name in ["my_header", "transfer-encoding", "x_request_id"] {
            assert!(!imitates(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_hop_by_hop_field_survives(fields in proptest::collection::vec(
            (prop_oneof!["connection", "te", "upgrade", "keep-alive", "x-[a-c]", "transfer-encoding"], "[a-z, -]{0,12}"), 0..12)
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            let nominated: Vec<String> = list(&headers, &header::CONNECTION).map(str::to_owned).collect();
            strip_hop_by_hop(&mut headers);
            for name in headers.keys() {
                prop_assert!(name.as_str().starts_with("x-"));
                prop_assert!(!nominated.iter().any(|n| n == name.as_str()));
            }
        }
    }

    #[test]
    fn a_detached_head_says_the_same() {
        for target in ["/", "*", "/a/b?c=%20&d", "/x?", "http://a.b:80/x?y", "a:80"] {
            let request =
                http::Request::post(target).header("a", "1").header("a", "\u{fc}, 2").header("b", "");
            let mut head = request.body(()).unwrap().into_parts().0;
            let before = (head.uri.to_string(), head.headers.clone());
            detach(&mut head);
            assert_eq!((head.uri.to_string(), head.headers), before);
        }
    }
}
