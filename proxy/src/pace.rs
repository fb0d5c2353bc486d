//! The pace of a response over HTTP/1: until its client has shown that it reads, nothing more is taken from the server
//! while something waits for the client.
//!
//! hyper takes two reads' worth of a body before it waits for the client's socket, which is what a client that does not
//! read costs most. Knows no protocol.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use http_body::SizeHint;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::sips::{PATIENCE, SHORT};

/// What of a response's body waits for its client. Shared by the connection and the body.
#[derive(Debug, Default)]
pub struct Pace {
    unsent: Cell<usize>,
    waited_for: Cell<bool>,
}

/// A client's connection that tells what it has taken.
#[derive(Debug)]
pub struct Paced<IO> {
    io: IO,
    pace: Rc<Pace>,
}

impl Pace {
    /// Whether a body of which so much has passed needs to wait; then its task is woken when it need not any more.
    pub fn waits(&self, passed: u64) -> bool {
        let waits = passed <= PATIENCE as u64 && self.unsent.get() > 0;
        self.waited_for.set(waits);
        waits
    }

    /// So much more of the body is on its way to the client.
    pub fn pass(&self, bytes: usize) {
        self.unsent.set(self.unsent.get() + bytes);
    }

    /// Whether a body is so short that the sockets take it as a whole.
    pub fn is_short(hint: &SizeHint) -> bool {
        hint.upper().is_some_and(|length| length <= SHORT)
    }

    /// The client's socket took so much, of the body or of what is around it.
    fn sent(&self, bytes: usize, cx: &Context<'_>) {
        let left = self.unsent.get().saturating_sub(bytes);
        self.unsent.set(left);
        if left == 0 && self.waited_for.take() {
            cx.waker().wake_by_ref();
        }
    }
}

impl<IO> Paced<IO> {
    /// From its first byte.
    pub fn new(io: IO, pace: Rc<Pace>) -> Self {
        Self { io, pace }
    }

    /// The connection itself.
    pub fn into_inner(self) -> IO {
        self.io
    }

    fn tell(&self, written: Poll<io::Result<usize>>, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.pace.sent(bytes, cx);
        }
        written
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Paced<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Paced<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.tell(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.tell(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_body_waits_until_what_went_before_is_written() {
        let pace = Rc::new(Pace::default());
        let (client, _server) = tokio::io::duplex(1024);
        let mut paced = Paced::new(client, pace.clone());
        assert!(!pace.waits(0));
        pace.pass(100);
        assert!(pace.waits(100));
        paced.write_all(&[0; 60]).await.unwrap();
        assert!(pace.waits(100), "40 bytes wait");
        paced.write_all(&[0; 60]).await.unwrap();
        assert!(!pace.waits(100), "its framing was written, too");
        pace.pass(100);
        assert!(!pace.waits(PATIENCE as u64 + 1), "who has taken much does read");
        assert!(Pace::is_short(&SizeHint::with_exact(SHORT)));
        assert!(!Pace::is_short(&SizeHint::with_exact(SHORT + 1)) && !Pace::is_short(&SizeHint::default()));
    }

    #[test]
    fn who_waited_is_woken_once() {
        struct Count(std::sync::atomic::AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let count = std::sync::Arc::new(Count(0.into()));
        let waker = Waker::from(count.clone());
        let cx = Context::from_waker(&waker);
        let woken = || count.0.load(std::sync::atomic::Ordering::Relaxed);
        let pace = Pace::default();
        pace.pass(10);
        pace.sent(10, &cx);
        assert_eq!(woken(), 0, "nobody waited");
        pace.pass(10);
        assert!(pace.waits(10));
        pace.sent(4, &cx);
        assert_eq!(woken(), 0);
        pace.sent(6, &cx);
        pace.sent(6, &cx);
        assert_eq!(woken(), 1);
    }
}
