//! The guard as hyper sees it: bytes in, bytes out, whatever the pieces they come in.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{Guard, PATIENCE, V, Violation};

/// A connection that delivers these pieces, and then its end.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(mut piece) = this.0.pop_front() {
            let len = piece.len().min(buffer.remaining());
            buffer.put_slice(&piece[..len]);
            if len < piece.len() {
                this.0.push_front(piece.split_off(len));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How a connection ended for its reader.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Closed,
    Waiting,
    Broken(Violation),
}

/// Everything that passes, in reads of at most `room` bytes.
fn pass_in(pieces: Vec<Vec<u8>>, room: usize) -> (Vec<u8>, End) {
    let mut guard = Guard::new(Pieces(pieces.into_iter().filter(|p| !p.is_empty()).collect()));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async move {
        let mut passed = Vec::new();
        let mut buffer = vec![0; room];
        loop {
            // the paused clock jumps over the guard's patience only when nothing else can happen
            let read = tokio::time::timeout(PATIENCE * 2, guard.read(&mut buffer)).await;
            match read {
                Err(_) => return (passed, End::Waiting),
                Ok(Ok(0)) => return (passed, End::Closed),
                Ok(Ok(len)) => passed.extend_from_slice(&buffer[..len]),
                Ok(Err(error)) => {
                    let violation = error.get_ref().and_then(|e| e.downcast_ref::<Violation>());
                    return (passed, End::Broken(*violation.unwrap()));
                }
            }
        }
    })
}

/// As [`pass_in`], whole, byte by byte and cut in two at every place: always the same.
fn pass(bytes: &[u8]) -> (Vec<u8>, End) {
    let whole = pass_in(vec![bytes.to_vec()], 8192);
    assert_eq!(pass_in(bytes.iter().map(|b| vec![*b]).collect(), 8192), whole, "byte by byte");
    for at in 1..bytes.len() {
        let (first, second) = bytes.split_at(at);
        assert_eq!(pass_in(vec![first.to_vec(), second.to_vec()], 50), whole, "cut at {at}");
    }
    whole
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn good_requests_pass_unchanged() {
    for text in [
        GET.to_owned(),
        GET.repeat(3),
        format!("POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello{GET}"),
        format!(
            "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n{GET}"
        ),
        format!(
            "POST /d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nA \r\n0123456789\r\n0\r\n\r\n\r\n{GET}"
        ),
    ] {
        assert_eq!(pass(text.as_bytes()), (text.clone().into_bytes(), End::Closed), "{text:?}");
    }
}

#[test]
fn a_bad_request_is_replaced_in_its_turn() {
    for (bad, violation) in [
        ("GET / HTTP/1.1\nHost: a\n\n", V::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", V::Host),
        ("GET / HTTP/1.1\r\n\r\n", V::HostMissing),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            V::TwoFramings,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n", V::TransferEncoding),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", V::Folded),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", V::Connect),
    ] {
        for good in ["", GET] {
            let wanted = [good.as_bytes(), &violation.stand_in()].concat();
            assert_eq!(
                pass(format!("{good}{bad}{GET}").as_bytes()),
                (wanted, End::Waiting),
                "{good:?} then {bad:?}"
            );
        }
    }
}

#[test]
fn a_smuggled_request_is_only_a_body() {
    let body = "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 29\r\n\r\nGET /x HTTP/1.1\nHost: evil\n\n\n";
    assert_eq!(pass(body.as_bytes()), (body.as_bytes().to_vec(), End::Closed));
}

#[test]
fn bad_chunks_break_the_body() {
    let post = "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (good, bad, violation) in [
        ("", "0x3\r\nabc\r\n", V::ChunkSize),
        ("", "3\nabc\r\n", V::ChunkSize),
        ("", "3;\0\r\nabc\r\n", V::ChunkSize),
        ("3\r\nabc", "d\r\n0\r\n\r\n", V::ChunkEnd),
        ("3\r\nabc", "\n0\r\n\r\n", V::ChunkEnd),
        ("3\r\nabc\r\n0\r\n", "Host: b\r\n\r\n", V::Trailer),
    ] {
        let wanted = format!("{post}{good}").into_bytes();
        assert_eq!(
            pass(format!("{post}{good}{bad}").as_bytes()),
            (wanted, End::Broken(violation)),
            "{bad:?}"
        );
    }
}

#[test]
fn after_a_request_to_upgrade_everything_waits() {
    let upgrade = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(pass(format!("{upgrade}\u{81}early").as_bytes()), (upgrade.as_bytes().to_vec(), End::Waiting));
    let other = format!("GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n{GET}");
    assert_eq!(pass(other.as_bytes()), (other.clone().into_bytes(), End::Closed));
}

#[tokio::test]
async fn what_came_early_is_handed_over_with_the_connection() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\nearly".to_vec();
    let mut guard = Guard::new(Pieces([bytes].into()));
    let mut buffer = [0; 1024];
    let len = guard.read(&mut buffer).await.unwrap();
    assert!(buffer[..len].ends_with(b"\r\n\r\n"));
    assert_eq!(guard.into_parts().1, b"early");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_end_is_refused_in_time() {
    let (client, server) = tokio::io::duplex(64);
    let (mut client, mut guard) = (client, Guard::new(server));
    let began = tokio::time::Instant::now();
    let sender = tokio::spawn(async move {
        for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX: " {
            client.write_all(&[*byte]).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        client
    });
    let mut buffer = [0; 1024];
    let len = guard.read(&mut buffer).await.unwrap();
    assert_eq!(buffer[..len], V::Timeout.stand_in());
    assert_eq!(tokio::time::Instant::now() - began, PATIENCE);
    drop(guard);
    sender.abort();
}

#[tokio::test]
async fn an_idle_connection_holds_no_memory() {
    let mut guard = Guard::new(Pieces(GET.bytes().map(|b| vec![b]).collect()));
    let mut buffer = [0; 1024];
    assert_eq!(guard.read(&mut buffer).await.unwrap(), GET.len());
    assert_eq!(guard.held.capacity(), 0);
    assert!(guard.deadline.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_can_read_its_answer() {
    let (mut client, server) = tokio::io::duplex(1024);
    let mut guard = Guard::new(server);
    client.write_all(b"GET / HTTP/1.1\n").await.unwrap();
    let mut buffer = [0; 1024];
    assert_eq!(guard.read(&mut buffer).await.unwrap(), V::BareLineFeed.stand_in().len());
    guard.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    // it goes on sending for a while
    let sender = tokio::spawn(async move {
        for _ in 0..8 {
            client.write_all(&[b'x'; 1000]).await.unwrap();
        }
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    });
    guard.shutdown().await.unwrap();
    drop(guard);
    assert!(sender.await.unwrap().starts_with(b"HTTP/1.1 400"));
}

/// Pieces of requests, good and bad, from which many monsters can be put together.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<&[u8]> = vec![
        b"GET / HTTP/1.1\r\n",
        b"POST /b HTTP/1.1\r\n",
        b"Host: a\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Upgrade: websocket\r\n",
        b"\r\n",
        b"abc",
        b"3\r\n",
        b"0\r\n",
        b"\n",
        b"\r",
        b" ",
    ];
    prop_oneof![
        8 => proptest::sample::select(known).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// What passes is what came, up to the stand-in, and does not depend on the pieces it came in.
    #[test]
    fn bytes_pass_unchanged_or_not_at_all(
        fragments in proptest::collection::vec(fragment(), 0..24),
        cuts in proptest::collection::vec(1usize..20, 0..24),
        room in 1usize..200,
    ) {
        let bytes = fragments.concat();
        let (whole, end) = pass_in(vec![bytes.clone()], 8192);
        let same = whole.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
        let rest = &whole[same..];
        prop_assert!(
            rest.is_empty() || end == End::Waiting && whole.ends_with(b" HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n"),
            "{:?} became {:?}", String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&whole)
        );
        let (mut left, mut pieces) = (&bytes[..], Vec::new());
        for cut in cuts {
            let (piece, rest) = left.split_at(cut.min(left.len()));
            pieces.push(piece.to_vec());
            left = rest;
        }
        pieces.push(left.to_vec());
        prop_assert_eq!(pass_in(pieces, room), (whole, end));
    }
}
