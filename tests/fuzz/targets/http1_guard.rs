//! The guard lets through the same, however the bytes come in, and only heads that hyper's parser reads as well.
#![no_main]

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use byrnie_proxy::http1_guard::Guard;
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
};

thread_local! {
    // the guard's patience is a timer
    static RUNTIME: RefCell<Runtime> = RefCell::new(Builder::new_current_thread().enable_time().build().unwrap());
}

/// A client that sends its bytes in pieces of this size.
struct Pieces<'a> {
    left: &'a [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (piece, left) = self.left.split_at(self.size.min(self.left.len()).min(buffer.remaining()));
        buffer.put_slice(piece);
        self.left = left;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces<'_> {
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

#[derive(Debug, PartialEq)]
enum End {
    Eof,
    Error(String),
    Waiting,
}

/// What hyper would read, and how that ends.
fn passed(bytes: &[u8], size: usize, room: usize) -> (Vec<u8>, End) {
    let mut guard = Guard::new(Pieces { left: bytes, size });
    let mut cx = Context::from_waker(Waker::noop());
    let mut out = Vec::new();
    let mut scrap = vec![0; room];
    loop {
        let mut buffer = ReadBuf::new(&mut scrap);
        match Pin::new(&mut guard).poll_read(&mut cx, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => return (out, End::Eof),
            Poll::Ready(Ok(())) => out.extend_from_slice(buffer.filled()),
            Poll::Ready(Err(error)) => return (out, End::Error(error.to_string())),
            Poll::Pending => return (out, End::Waiting),
        }
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let (whole, pieces) = RUNTIME.with_borrow(|runtime| {
        let _inside = runtime.enter();
        (passed(bytes, usize::MAX, 8192), passed(bytes, 1 + usize::from(size), 8192))
    });
    assert_eq!(whole, pieces, "read at once, and in pieces of {} bytes", 1 + usize::from(size));
    let out = whole.0;
    let same = out.iter().zip(bytes).take_while(|(out, sent)| out == sent).count();
    let added = &out[same..];
    assert!(
        added.is_empty() || out.windows(13).any(|window| window == b"BYRNIE-REFUSE"),
        "something passes that the client did not send"
    );
    let mut fields = [httparse::EMPTY_HEADER; 101];
    let mut request = httparse::Request::new(&mut fields);
    if !out.is_empty() {
        assert!(request.parse(&out).is_ok_and(|head| head.is_complete()), "hyper reads no head");
    }
});
