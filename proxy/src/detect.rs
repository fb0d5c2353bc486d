//! What a connection's first bytes say about it.
//!
//! A time-out never ends a connection: what says nothing for long enough is opaque, and server-first protocols flow.

use std::{io, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::stream::Prefixed;

/// How long first bytes are waited for where nothing was declared.
pub const LIMIT: Duration = Duration::from_secs(1);
/// More than this is not read to find out; a request target may have 8 KiB, a ClientHello 16 KiB.
const MAX_BYTES: usize = 17 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// A request line.
    Http1,
    /// HTTP/2's connection preface.
    Http2,
    /// A ClientHello.
    Tls,
    /// Anything else.
    Opaque,
}

/// A connection with the bytes that were read to look at them.
#[derive(Debug)]
pub struct Peeked {
    tcp: TcpStream,
    bytes: BytesMut,
}

impl Peeked {
    /// A connection of which nothing has been read.
    pub fn new(tcp: TcpStream) -> Self {
        Self { tcp, bytes: BytesMut::new() }
    }

    /// Reads until the bytes say what they are. `None`: they had not said when the time, the room or the
    /// connection's sender came to an end.
    pub async fn until<T>(
        &mut self,
        limit: Option<Duration>,
        look: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            if !self.bytes.is_empty()
                && let Some(found) = look(&self.bytes)
            {
                return Ok(Some(found));
            }
            if self.bytes.len() >= MAX_BYTES {
                return Ok(None);
            }
            let more = async {
                self.tcp.readable().await?;
                self.bytes.reserve(2048);
                self.tcp.read_buf(&mut self.bytes).await
            };
            let read = match deadline {
                None => more.await?,
                Some(deadline) => match timeout_at(deadline, more).await {
                    Ok(read) => read?,
                    Err(_) => return Ok(None),
                },
            };
            if read == 0 {
                return Ok(None);
            }
        }
    }

    /// Whether nothing has come at all.
    pub fn is_silent(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets bytes at the front: they were not meant for whoever comes next.
    pub fn skip(&mut self, count: usize) {
        self.bytes.advance(count.min(self.bytes.len()));
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The connection, with the bytes in front of it again.
    pub fn into_stream(self) -> Prefixed {
        Prefixed::new(self.bytes.freeze(), self.tcp)
    }
}

/// What the first bytes are; `None` when more are needed to tell.
pub fn look(bytes: &[u8]) -> Option<Spoken> {
    match bytes {
        [] => None,
        [0x16, ..] => match bytes {
            [_, 3, _, _, _, kind, ..] => Some(if *kind == 1 { Spoken::Tls } else { Spoken::Opaque }),
            [_, version, ..] if *version != 3 => Some(Spoken::Opaque),
            _ => None,
        },
        _ if PREFACE.starts_with(bytes) => (bytes.len() == PREFACE.len()).then_some(Spoken::Http2),
        _ if bytes.starts_with(PREFACE) => Some(Spoken::Http2),
        _ => request_line(bytes),
    }
}

fn request_line(bytes: &[u8]) -> Option<Spoken> {
    if !first_word_is_short(bytes) {
        return Some(Spoken::Opaque);
    }
    let mut headers = [httparse::EMPTY_HEADER; 1];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(bytes);
    if request.version.is_some() {
        return Some(Spoken::Http1);
    }
    match parsed {
        Ok(httparse::Status::Partial) => None,
        _ => Some(Spoken::Opaque),
    }
}

/// No method is longer; waiting for a space that never comes would only delay.
fn first_word_is_short(bytes: &[u8]) -> bool {
    bytes.iter().take(25).any(|b| *b == b' ') || bytes.len() <= 24
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    #[test]
    fn first_bytes() {
        for (bytes, spoken) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Spoken::Http1)),
            (b"GET / HTTP/1.0\r\nHost: x\r\n\r\nbody", Some(Spoken::Http1)),
            (b"get /%20 HTTP/1.1\n", Some(Spoken::Http1)),
            (b"OPTIONS * HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n", Some(Spoken::Http1)),
            (b"GET /long", None),
            (b"PRI", None),
            (PREFACE, Some(Spoken::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", Some(Spoken::Http2)),
            (b"\x16\x03\x01\x02\0\x01", Some(Spoken::Tls)),
            (b"\x16\x03\x01", None),
            (b"\x16\x03\x01\x02\0\x02", Some(Spoken::Opaque)),
            (b"\x16\x04", Some(Spoken::Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Spoken::Opaque)),
            (b"HELO there\r\n", Some(Spoken::Opaque)),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Some(Spoken::Opaque)),
            (b"GET / HTTP/2.0\r\n", Some(Spoken::Opaque)),
            (b"SSH-2.0-OpenSSH_9.6-and-then-some\r\n", Some(Spoken::Opaque)),
            (b"A-METHOD-OF-25-CHARACTERS / HTTP/1.1\r\n", Some(Spoken::Opaque)),
        ] {
            assert_eq!(look(bytes), spoken, "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_an_answer(bytes in proptest::collection::vec(any::<u8>(), 1..64), cut in 1..64usize) {
            let cut = cut.min(bytes.len());
            if let Some(early) = look(&bytes[..cut]) {
                prop_assert_eq!(look(&bytes), Some(early));
            }
        }

        #[test]
        fn a_request_line_is_recognised_however_it_arrives(method in "[A-Z]{3,10}", path in "/[a-z0-9/._~-]{0,40}", cut in 1..80usize) {
            let line = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            prop_assert_eq!(look(line.as_bytes()), Some(Spoken::Http1));
            let early = look(&line.as_bytes()[..cut.min(line.len())]);
            prop_assert!(early.is_none() || early == Some(Spoken::Http1));
        }
    }

    #[tokio::test]
    async fn silence_is_opaque_and_loses_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut peeked = Peeked::new(listener.accept().await.unwrap().0);
        assert_eq!(peeked.until(Some(Duration::from_millis(10)), look).await.unwrap(), None);
        assert!(peeked.is_silent());
        client.write_all(b"GE").await.unwrap();
        assert_eq!(peeked.until(Some(Duration::from_millis(10)), look).await.unwrap(), None);
        client.write_all(b"T / HTTP/1.1\r\n").await.unwrap();
        assert_eq!(peeked.until(None, look).await.unwrap(), Some(Spoken::Http1));
        drop(client);
        let mut all = Vec::new();
        peeked.into_stream().read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"GET / HTTP/1.1\r\n");
    }
}
