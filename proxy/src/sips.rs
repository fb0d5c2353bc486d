//! A server's stream, read in sips: what is read at once has to wait at once, should the client not take it.
//!
//! hyper reads into a buffer that doubles whenever it was filled to the last byte, which a server that answers faster
//! than its client reads always does. Knows no protocol.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One byte less than hyper's first buffer, so that it does not double.
const SIP: usize = 8 * 1024 - 1;
/// Whoever took more than this of one response does read: twice what a socket takes unread (`dial::tune`).
const READS: usize = 256 * 1024;

/// The stream.
#[derive(Debug)]
pub struct Sips<IO> {
    io: IO,
    read: usize,
}

impl<IO> Sips<IO> {
    /// From its first byte.
    pub fn new(io: IO) -> Self {
        Self { io, read: 0 }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Sips<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read > READS {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let mut cup = [const { MaybeUninit::uninit() }; SIP];
        let mut cup = ReadBuf::uninit(&mut cup[..SIP.min(buffer.remaining())]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut cup))?;
        self.read += cup.filled().len();
        buffer.put_slice(cup.filled());
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Sips<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // the next request
        self.read = 0;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.read = 0;
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
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
