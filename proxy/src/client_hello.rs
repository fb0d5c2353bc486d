//! Reads a TLS ClientHello without taking part in the handshake: server name and protocols (RFC 8446 section 4.1.2,
//! RFC 6066 section 3, RFC 7301 section 3.1).
//!
//! Owns the format. What to do with a connection that is TLS, or is not, is decided elsewhere.

use std::borrow::Cow;

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peek {
    /// So far they may become a ClientHello.
    NeedMore,
    /// They will never be one.
    NotTls,
    /// A whole ClientHello.
    Tls(ClientHello),
}

/// What a client says before anything is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host name asked for, as sent.
    pub server_name: Option<String>,
    /// Protocols offered, in the client's order.
    pub protocols: Vec<Vec<u8>>,
}

/// A ClientHello longer than this is none (browsers stay below 2 KiB, post-quantum ones too).
pub const MAX_LEN: usize = 16 * 1024;

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const PROTOCOLS: u16 = 16;

impl ClientHello {
    /// Whether the client speaks the mesh's protocol.
    pub fn is_mesh(&self) -> bool {
        self.server_name.as_deref() == Some("byrnie")
            && self.protocols.iter().any(|p| p.starts_with(b"byrnie/"))
    }
}

/// Looks at the bytes received so far.
pub fn peek(bytes: &[u8]) -> Peek {
    match message(bytes) {
        Err(unfinished) => unfinished,
        Ok(message) => client_hello(&message).map_or(Peek::NotTls, Peek::Tls),
    }
}

/// The body of the ClientHello message, put together from as many records as it was cut into.
fn message(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Peek> {
    let mut whole: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    loop {
        let (fragment, after) = record(rest, whole.is_empty())?;
        if whole.is_empty() {
            whole = Cow::Borrowed(fragment);
        } else {
            whole.to_mut().extend_from_slice(fragment);
        }
        if whole.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
            return Err(Peek::NotTls);
        }
        if let [_, high, middle, low, ..] = *whole {
            let len = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if len > MAX_LEN {
                return Err(Peek::NotTls);
            }
            if let Some(wanted) = 4usize.checked_add(len).filter(|&end| end <= whole.len()) {
                return Ok(match whole {
                    Cow::Borrowed(all) => Cow::Borrowed(&all[4..wanted]),
                    Cow::Owned(all) => Cow::Owned(all[4..wanted].to_vec()),
                });
            }
        }
        rest = after;
    }
}

/// One whole record, which may be the one that begins the message, and what follows it.
fn record(bytes: &[u8], begins: bool) -> Result<(&[u8], &[u8]), Peek> {
    let plausible = |at: usize, fits: fn(u8) -> bool| bytes.get(at).is_none_or(|&b| fits(b));
    if !plausible(0, |kind| kind == HANDSHAKE_RECORD)
        || !plausible(1, |major| major == 3)
        || !plausible(2, |m| m <= 4)
    {
        return Err(Peek::NotTls);
    }
    let [_, _, _, high, low, rest @ ..] = bytes else { return Err(Peek::NeedMore) };
    let len = usize::from(*high) << 8 | usize::from(*low);
    if len == 0 || len > MAX_LEN {
        return Err(Peek::NotTls);
    }
    // the first byte of the message is enough to know that it is something else
    if rest.is_empty() || rest.len() < len && (!begins || rest[0] == CLIENT_HELLO) {
        return Err(Peek::NeedMore);
    }
    rest.split_at_checked(len).ok_or(Peek::NotTls)
}

fn client_hello(message: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(message);
    reader.take(2 + 32)?;
    let session = reader.u8_prefixed()?;
    let suites = reader.u16_prefixed()?;
    let compressions = reader.u8_prefixed()?;
    if session.len() > 32 || suites.is_empty() || suites.len() % 2 != 0 || compressions.is_empty() {
        return None;
    }
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.u16_prefixed()?);
    while !extensions.0.is_empty() {
        let (kind, body) = (extensions.u16()?, extensions.u16_prefixed()?);
        match kind {
            SERVER_NAME => read_server_name(body, &mut hello)?,
            PROTOCOLS => hello.protocols = protocols(body)?,
            _ => {}
        }
    }
    reader.0.is_empty().then_some(hello)
}

fn read_server_name(body: &[u8], hello: &mut ClientHello) -> Option<()> {
    let mut names = Reader(Reader(body).u16_prefixed()?);
    while !names.0.is_empty() {
        let kind = names.take(1)?[0];
        let name = names.u16_prefixed()?;
        if kind == 0 {
            hello.server_name = Some(std::str::from_utf8(name).ok()?.to_owned());
        }
    }
    Some(())
}

fn protocols(body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut names = Reader(Reader(body).u16_prefixed()?);
    let mut protocols = Vec::new();
    while !names.0.is_empty() {
        protocols.push(names.u8_prefixed().filter(|p| !p.is_empty())?.to_vec());
    }
    Some(protocols)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn u8_prefixed(&mut self) -> Option<&'a [u8]> {
        let len = self.take(1)?[0];
        self.take(usize::from(len))
    }

    fn u16_prefixed(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs};

    use super::*;

    /// What a real client sends first.
    fn hello(name: &str, protocols: &[&[u8]]) -> Vec<u8> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
        let mut config =
            builder.unwrap().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        let mut client =
            ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message in records of at most `size` bytes.
    fn cut(hello: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| {
            let len = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[22, 3, 1, len[0], len[1]], part].concat()
        };
        hello[5..].chunks(size).flat_map(record).collect()
    }

    #[test]
    fn a_client_hello_is_read_at_every_boundary() {
        let whole = hello("byrnie", &[b"byrnie/1+h2"]);
        for end in 0..whole.len() {
            assert_eq!(peek(&whole[..end]), Peek::NeedMore, "{end} bytes");
        }
        let Peek::Tls(said) = peek(&whole) else { unreachable!("a whole hello") };
        assert_eq!(said.server_name.as_deref(), Some("byrnie"));
        assert_eq!(said.protocols, [b"byrnie/1+h2"]);
        assert!(said.is_mesh());
        for size in [1, 3, 4, 5, 100, 600] {
            let cut = cut(&whole, size);
            assert_eq!(peek(&cut), Peek::Tls(said.clone()), "records of {size}");
            for end in 0..cut.len() {
                assert_eq!(peek(&cut[..end]), Peek::NeedMore, "{end} bytes in records of {size}");
            }
        }
    }

    #[test]
    fn other_tls_is_not_the_mesh() {
        let Peek::Tls(said) = peek(&hello("example.org", &[b"h2", b"http/1.1"])) else {
            unreachable!("a hello")
        };
        assert_eq!((said.server_name.as_deref(), said.is_mesh()), (Some("example.org"), false));
    }

    #[test]
    fn other_protocols_are_told_by_their_first_bytes() {
        for start in [
            &b"GET / HTTP/1.1"[..],
            b"PRI * HTTP/2.0",
            b"SSH-2.0",
            b"\x16\x04",
            b"\x16\x03\x01\x00\x00",
            b"\0",
        ] {
            assert_eq!(peek(start), Peek::NotTls, "{start:?}");
        }
        assert_eq!(peek(b"\x16\x03\x01\x00\x05\x02"), Peek::NotTls, "a ServerHello");
        assert_eq!(peek(b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\xff"), Peek::NotTls, "a hello of 16 MiB");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = peek(&bytes);
        }

        #[test]
        fn no_damage_panics(at in 0usize..200, byte: u8, end in 0usize..300) {
            let mut bytes = hello("byrnie", &[b"byrnie/1+h2", b"byrnie/1+tcp"]);
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = peek(&bytes);
            let _ = peek(&cut(&bytes, 1 + at));
            let _ = peek(&bytes[..end.min(bytes.len())]);
        }
    }
}
