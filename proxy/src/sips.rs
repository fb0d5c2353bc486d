//! A server's stream, read in sips: what is read at once waits at once, should the client not take it.
//!
//! hyper reads into a buffer that doubles whenever it was filled to the last byte, which a server that answers faster
//! than its client reads always does. Knows no protocol.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A byte less than hyper's first buffer, so that it does not double.
const SIP: usize = 8 * 1024 - 1;
/// So much of a response the sockets take, read or not; whoever has taken more does read.
pub const PATIENCE: usize = 128 * 1024;
/// A response that the sockets take as a whole needs no care.
pub const SHORT: u64 = 64 * 1024;

/// The stream.
#[derive(Debug)]
pub struct Sips<IO> {
    io: IO,
    read: usize,
    short: Short,
}

/// Says that the response which has begun is short.
#[derive(Clone, Debug, Default)]
pub struct Short(Arc<AtomicBool>);

impl Short {
    /// A response begins that has at most so many bytes.
    pub fn set(&self, length: Option<u64>) {
        self.0.store(length.is_some_and(|length| length <= SHORT), Ordering::Relaxed);
    }
}

impl<IO> Sips<IO> {
    /// From its first byte.
    pub fn new(io: IO) -> (Self, Short) {
        let short = Short::default();
        (Self { io, read: 0, short: short.clone() }, short)
    }

    /// A request follows, and another response.
    fn next(&mut self) {
        self.read = 0;
        self.short.set(None);
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Sips<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read > PATIENCE || buffer.remaining() <= SIP || self.short.0.load(Ordering::Relaxed) {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let mut cup = [const { MaybeUninit::uninit() }; SIP];
        let mut cup = ReadBuf::uninit(&mut cup);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut cup))?;
        self.read += cup.filled().len();
        buffer.put_slice(cup.filled());
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Sips<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.next();
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.next();
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_long_response_comes_in_sips_until_somebody_has_taken_it() {
        let (mut server, client) = tokio::io::duplex(1024 * 1024);
        let (mut stream, short) = Sips::new(client);
        server.write_all(&vec![7; 600_000]).await.unwrap();
        let mut buffer = vec![0; 64 * 1024];
        assert_eq!(stream.read(&mut buffer).await.unwrap(), SIP);
        let mut read = SIP;
        while read <= PATIENCE {
            assert_eq!(stream.read(&mut buffer).await.unwrap(), SIP);
            read += SIP;
        }
        assert_eq!(stream.read(&mut buffer).await.unwrap(), buffer.len());
        stream.write_all(b"next").await.unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), SIP);
        short.set(Some(SHORT));
        assert_eq!(stream.read(&mut buffer).await.unwrap(), buffer.len());
        short.set(Some(SHORT + 1));
        assert_eq!(stream.read(&mut buffer).await.unwrap(), SIP);
        short.set(None);
        assert_eq!(stream.read(&mut buffer).await.unwrap(), SIP);
        assert!(buffer.iter().all(|byte| *byte == 7));
    }
}
