//! One request head, read so strictly that no two servers can disagree about it (RFC 9112 sections 2 to 6).

use memchr::memchr;

use super::violation::{STAND_IN, Violation};

/// Bytes of a head, its last empty line included: 16 KiB but for the room that `http_proxy` must not have.
pub const MAX_HEAD: usize = 16 * 1024 - 2;
/// Bytes of a request target.
pub(super) const MAX_TARGET: usize = 8 * 1024;
/// Header lines of a head.
pub(super) const MAX_HEADERS: usize = 100;

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// A body of this many bytes.
    Sized(u64),
    /// A chunked body.
    Chunked,
}

/// A head that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes that it takes.
    pub(super) len: usize,
    pub(super) framing: Framing,
    /// After an upgrade to WebSocket the connection is not HTTP any more.
    pub(super) websocket: bool,
}

/// Headers that decide about framing, routing and identity: one spelling each.
const RESERVED: [&[u8]; 12] = [
    b"connection",
    b"content-length",
    b"expect",
    b"forwarded",
    b"host",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"via",
];
const RESERVED_PREFIXES: [&[u8]; 3] = [b"byrnie-", b"x-byrnie-", b"x-forwarded-"];

/// Reads a head from its first byte; `None` when it is not complete.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Head>, Violation> {
    let mut lines = Lines { bytes, at: 0 };
    if bytes.first().is_some_and(|b| !is_token(*b) && *b != b'\r') {
        return Err(if bytes[0] == b'\n' { Violation::BareLineFeed } else { Violation::RequestLine });
    }
    // one empty line before the request is forgiven (RFC 9112 section 2.2)
    let Some(mut first) = lines.next()? else { return incomplete(bytes, true) };
    if first.is_empty() {
        match lines.next()? {
            Some(line) => first = line,
            None => return incomplete(bytes, true),
        }
    }
    let mut fields = Fields::default();
    let (minor, authority) = request_line(first)?;
    let mut count = 0;
    loop {
        let Some(line) = lines.next()? else { return incomplete(bytes, false) };
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > MAX_HEADERS {
            return Err(Violation::TooManyHeaders);
        }
        let (name, value) = header(line)?;
        fields.add(name, value)?;
    }
    if lines.at > MAX_HEAD {
        return Err(Violation::HeadTooLarge);
    }
    fields.host(minor, authority)?;
    let framing = fields.framing(minor)?;
    if fields.websocket && framing != Framing::Sized(0) {
        return Err(Violation::UpgradeWithBody);
    }
    Ok(Some(Head { len: lines.at, framing, websocket: fields.websocket }))
}

/// The name and the value, without white space around it, of a header line.
pub(super) fn header(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if line[0] == b' ' || line[0] == b'\t' {
        return Err(Violation::Folded);
    }
    let colon = memchr(b':', line).ok_or(Violation::HeaderName)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return Err(Violation::HeaderName);
    }
    if value.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f) {
        return Err(Violation::HeaderValue);
    }
    if memchr(b'_', name).is_some() && is_reserved(&name.iter().map(|b| unshadowed(*b)).collect::<Vec<_>>()) {
        return Err(Violation::Shadowed);
    }
    Ok((name, trim(value)))
}

/// Whether a name, in lower case, is one of which there is only one spelling.
pub(super) fn is_reserved(name: &[u8]) -> bool {
    RESERVED.contains(&name) || RESERVED_PREFIXES.iter().any(|p| name.starts_with(p))
}

/// Lines without their CRLF.
pub(super) struct Lines<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Lines<'a> {
    /// The next whole line.
    pub(super) fn next(&mut self) -> Result<Option<&'a [u8]>, Violation> {
        let rest = &self.bytes[self.at..];
        let Some(end) = memchr(b'\n', rest) else { return Ok(None) };
        self.at += end + 1;
        rest[..end].strip_suffix(b"\r").map(Some).ok_or(Violation::BareLineFeed)
    }
}

fn incomplete(bytes: &[u8], first_line: bool) -> Result<Option<Head>, Violation> {
    match bytes.len() {
        len if first_line && len > MAX_TARGET + 64 => Err(Violation::TargetTooLong),
        len if len > MAX_HEAD => Err(Violation::HeadTooLarge),
        _ => Ok(None),
    }
}

/// The minor version, and the authority of an absolute target.
fn request_line(line: &[u8]) -> Result<(u8, Option<&[u8]>), Violation> {
    let mut words = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Violation::RequestLine);
    };
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) || method == STAND_IN.as_bytes() {
        return Err(Violation::RequestLine);
    }
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        other if other.starts_with(b"HTTP/") => return Err(Violation::Version),
        _ => return Err(Violation::RequestLine),
    };
    if method == b"CONNECT" {
        return Err(Violation::Connect);
    }
    if target.len() > MAX_TARGET {
        return Err(Violation::TargetTooLong);
    }
    let bad = |b: &u8| *b < 0x21 || *b == 0x7f || *b == b'#';
    // hyper takes no other bytes than those of UTF-8
    if target.is_empty() || target.iter().any(bad) || std::str::from_utf8(target).is_err() {
        return Err(Violation::Target);
    }
    if target[0] == b'/' || (target == b"*" && method == b"OPTIONS") {
        return Ok((minor, None));
    }
    match target.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"http://") => {
            let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
            if end > 0 && is_host(&rest[..end]) {
                Ok((minor, Some(&rest[..end])))
            } else {
                Err(Violation::Target)
            }
        }
        _ => Err(Violation::Target),
    }
}

/// What the headers say that everything else depends on.
#[derive(Default)]
struct Fields<'a> {
    length: Option<u64>,
    chunked: bool,
    host: Option<&'a [u8]>,
    websocket: bool,
}

impl<'a> Fields<'a> {
    fn add(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Violation> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if self.host.is_some() || !is_host(value) {
                    return Err(Violation::Host);
                }
                self.host = Some(value);
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                let mut wanted = value.split(|b| *b == b',').map(trim);
                self.websocket |= wanted.any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(Violation::RepeatedLength);
                }
                self.length = Some(length(value).ok_or(Violation::ContentLength)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Violation::TransferEncoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn host(&self, minor: u8, authority: Option<&[u8]>) -> Result<(), Violation> {
        match (self.host, authority) {
            (None, _) if minor == 1 => Err(Violation::HostMissing),
            (Some(host), Some(authority)) if !host.eq_ignore_ascii_case(authority) => {
                Err(Violation::HostMismatch)
            }
            _ => Ok(()),
        }
    }

    fn framing(&self, minor: u8) -> Result<Framing, Violation> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Violation::TwoFramings),
            (true, None) if minor == 0 => Err(Violation::TransferEncoding),
            (true, None) => Ok(Framing::Chunked),
            (false, length) => Ok(Framing::Sized(length.unwrap_or(0))),
        }
    }
}

/// Digits without leading zeros, below 2^63.
fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || (value[0] == b'0' && value.len() > 1) {
        return None;
    }
    value.iter().try_fold(0u64, |sum, b| {
        let digit = b.checked_sub(b'0').filter(|d| *d < 10)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit)).filter(|&n| n < 1 << 63)
    })
}

/// `host[:port]`, or nothing: what RFC 3986 allows in an authority without user information, and no list.
fn is_host(value: &[u8]) -> bool {
    value.iter().all(|b| {
        b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'.' | b'-'
                    | b':'
                    | b'_'
                    | b'['
                    | b']'
                    | b'~'
                    | b'%'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b';'
                    | b'='
            )
    })
}

/// A byte that names and methods are made of (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'_'
                | b'.'
                | b'!'
                | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'^'
                | b'`'
                | b'|'
                | b'~'
        )
}

fn unshadowed(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }
}

fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !blank(b)).map_or(start, |last| last + 1);
    &value[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> Result<Head, Violation> {
        parse(lines.as_bytes()).map(|head| head.expect("a whole head"))
    }

    fn with(headers: &str) -> Result<Head, Violation> {
        read(&format!("POST /x HTTP/1.1\r\nHost: a\r\n{headers}\r\n"))
    }

    #[test]
    fn plain_heads_pass() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a?b=//../c HTTP/1.1\r\nHOST:\ta:80 \r\nX: \"\u{fc}\"\r\n\r\n",
            "GET http://A:80/x HTTP/1.1\r\nHost: a:80\r\n\r\n",
            "GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "get / HTTP/1.1\r\nHost:\r\nx_custom: 1\r\nEmpty:\r\n\r\n",
        ] {
            let head = read(text).unwrap_or_else(|v| panic!("{text:?}: {v}"));
            assert_eq!((head.len, head.framing), (text.len(), Framing::Sized(0)), "{text:?}");
        }
    }

    #[test]
    fn framing_is_what_everybody_reads() {
        assert_eq!(with("Content-Length: 3\r\n").unwrap().framing, Framing::Sized(3));
        assert_eq!(with("Content-Length: 0\r\n").unwrap().framing, Framing::Sized(0));
        assert_eq!(with("Transfer-Encoding: Chunked \r\n").unwrap().framing, Framing::Chunked);
        for (headers, why) in [
            ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", Violation::TwoFramings),
            ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", Violation::TwoFramings),
            ("Transfer-Encoding: identity, chunked\r\n", Violation::TransferEncoding),
            ("Transfer-Encoding: gzip, chunked\r\n", Violation::TransferEncoding),
            ("Transfer-Encoding: chunked, gzip\r\n", Violation::TransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Violation::TransferEncoding),
            ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", Violation::TransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Violation::TransferEncoding),
            ("Transfer-Encoding: xchunked\r\n", Violation::TransferEncoding),
            ("Transfer-Encoding: chunked;ext\r\n", Violation::TransferEncoding),
            ("Transfer-Encoding:\r\n", Violation::TransferEncoding),
            ("Transfer-Encoding: \x0bchunked\r\n", Violation::HeaderValue),
            ("Content-Length: 3\r\nContent-Length: 4\r\n", Violation::RepeatedLength),
            ("Content-Length: 3\r\nContent-Length: 3\r\n", Violation::RepeatedLength),
            ("Content-Length: 3, 3\r\n", Violation::ContentLength),
            ("Content-Length: 003\r\n", Violation::ContentLength),
            ("Content-Length: +3\r\n", Violation::ContentLength),
            ("Content-Length: -3\r\n", Violation::ContentLength),
            ("Content-Length: 0x3\r\n", Violation::ContentLength),
            ("Content-Length:\r\n", Violation::ContentLength),
            ("Content-Length: 9223372036854775808\r\n", Violation::ContentLength),
            ("Content-Length: 18446744073709551619\r\n", Violation::ContentLength),
        ] {
            assert_eq!(with(headers), Err(why), "{headers:?}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read(old), Err(Violation::TransferEncoding));
    }

    #[test]
    fn headers_have_one_spelling() {
        for (headers, why) in [
            ("X : 1\r\n", Violation::HeaderName),
            ("X\r\n", Violation::HeaderName),
            (": 1\r\n", Violation::HeaderName),
            ("X\u{fc}: 1\r\n", Violation::HeaderName),
            ("X\0: 1\r\n", Violation::HeaderName),
            ("X: a\r\n b\r\n", Violation::Folded),
            ("X: a\r\n\tb\r\n", Violation::Folded),
            ("X: a\rb\r\n", Violation::HeaderValue),
            ("X: a\0b\r\n", Violation::HeaderValue),
            ("X: a\x7f\r\n", Violation::HeaderValue),
            ("X: a\nY: b\r\n", Violation::BareLineFeed),
            ("X: a\n", Violation::BareLineFeed),
            ("Transfer_Encoding: chunked\r\n", Violation::Shadowed),
            ("content_LENGTH: 5\r\n", Violation::Shadowed),
            ("x_forwarded_for: 1.2.3.4\r\n", Violation::Shadowed),
            ("Byrnie_Client-Id: x\r\n", Violation::Shadowed),
            ("X_Byrnie-Y: x\r\n", Violation::Shadowed),
        ] {
            assert_eq!(with(headers), Err(why), "{headers:?}");
        }
    }

    #[test]
    fn there_is_exactly_one_host() {
        for (text, why) in [
            ("GET / HTTP/1.1\r\n\r\n", Violation::HostMissing),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Violation::Host),
            ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Violation::Host),
            ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", Violation::Host),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Violation::Host),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Violation::Host),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Violation::HostMismatch),
            ("GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", Violation::HostMismatch),
            ("GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n", Violation::HostMismatch),
            ("GET http://a/ HTTP/1.1\r\n\r\n", Violation::HostMissing),
        ] {
            assert_eq!(read(text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn the_request_line_has_one_form() {
        for (line, why) in [
            ("GET  / HTTP/1.1", Violation::RequestLine),
            ("GET / HTTP/1.1 ", Violation::RequestLine),
            (" GET / HTTP/1.1", Violation::RequestLine),
            ("GET\t/\tHTTP/1.1", Violation::RequestLine),
            ("GET /", Violation::RequestLine),
            ("G@T / HTTP/1.1", Violation::RequestLine),
            ("BYRNIE-REFUSE /1 HTTP/1.1", Violation::RequestLine),
            ("GET / HTTP/2.0", Violation::Version),
            ("GET / HTTP/1.2", Violation::Version),
            ("GET / http/1.1", Violation::RequestLine),
            ("CONNECT a:443 HTTP/1.1", Violation::Connect),
            ("GET a HTTP/1.1", Violation::Target),
            ("GET * HTTP/1.1", Violation::Target),
            ("GET /a#b HTTP/1.1", Violation::Target),
            ("GET /a\x7f HTTP/1.1", Violation::Target),
            ("GET https://a/ HTTP/1.1", Violation::Target),
            ("GET http:///x HTTP/1.1", Violation::Target),
            ("GET http://u@a/ HTTP/1.1", Violation::Target),
            ("GET ftp://a/ HTTP/1.1", Violation::Target),
        ] {
            assert_eq!(read(&format!("{line}\r\nHost: a\r\n\r\n")), Err(why), "{line:?}");
        }
        assert_eq!(parse(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"), Err(Violation::Target));
        assert_eq!(parse(b"\n"), Err(Violation::BareLineFeed));
        assert_eq!(parse(b"\r\n\r\n"), Err(Violation::RequestLine));
        assert_eq!(parse(b"\x16\x03\x01"), Err(Violation::RequestLine), "TLS is refused at its first byte");
    }

    #[test]
    fn limits_are_exact() {
        let target = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(len - 1));
        assert!(read(&target(MAX_TARGET)).is_ok());
        assert_eq!(read(&target(MAX_TARGET + 1)), Err(Violation::TargetTooLong));
        assert_eq!(parse(&vec![b'G'; MAX_HEAD]), Err(Violation::TargetTooLong), "without an end");
        let headers =
            |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(count - 1));
        assert!(read(&headers(MAX_HEADERS)).is_ok());
        assert_eq!(read(&headers(MAX_HEADERS + 1)), Err(Violation::TooManyHeaders));
        let sized = |len: usize| {
            let empty = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(len - empty))
        };
        assert_eq!(read(&sized(MAX_HEAD)).map(|h| h.len), Ok(MAX_HEAD));
        assert_eq!(read(&sized(MAX_HEAD + 1)), Err(Violation::HeadTooLarge));
        assert_eq!(
            parse(&sized(2 * MAX_HEAD).as_bytes()[..=MAX_HEAD]),
            Err(Violation::HeadTooLarge),
            "without an end"
        );
    }

    #[test]
    fn only_websocket_ends_the_http_of_a_connection() {
        assert!(with("Connection: Upgrade\r\nUpgrade: WebSocket\r\n").unwrap().websocket);
        assert!(with("Upgrade: foo, websocket\r\n").unwrap().websocket);
        assert!(!with("Connection: Upgrade\r\nUpgrade: h2c\r\n").unwrap().websocket);
        assert!(with("Upgrade: websocket\r\nContent-Length: 0\r\n").unwrap().websocket);
        for body in ["Content-Length: 1", "Transfer-Encoding: chunked"] {
            let body = with(&format!("Upgrade: websocket\r\n{body}\r\n"));
            assert_eq!(body, Err(Violation::UpgradeWithBody));
        }
    }
}
