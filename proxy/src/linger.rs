//! A connection that is closed in peace: after its last byte, what its peer still says is read and thrown away until the
//! peer closes, too. Closing with bytes unread resets a connection, and a peer that is writing then loses what was
//! said to it last, which may be that its requests were not processed (GOAWAY).
//!
//! Knows no protocol.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// What a peer may still say, and for how long.
const BYTES: usize = 256 * 1024;
const TIME: Duration = Duration::from_secs(1);

/// The connection.
#[derive(Debug)]
pub struct Lingering<IO> {
    io: IO,
    read: usize,
    end: Option<Pin<Box<Sleep>>>,
}

impl<IO> Lingering<IO> {
    /// From its first byte.
    pub fn new(io: IO) -> Self {
        Self { io, read: 0, end: None }
    }

    /// The connection itself.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The connection itself, to close it without ceremony.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// The connection itself.
    pub fn into_inner(self) -> IO {
        self.io
    }
}

impl<IO: AsyncRead + Unpin> Lingering<IO> {
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let end = self.end.get_or_insert_with(|| Box::pin(sleep(TIME)));
        let mut scrap = [const { MaybeUninit::uninit() }; 4096];
        while self.read < BYTES {
            let mut buffer = ReadBuf::uninit(&mut scrap);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.read += buffer.filled().len(),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return end.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Lingering<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        self.poll_silence(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    /// What a peer reads that has written more than was read before the other side closed.
    async fn last_words(close: impl AsyncFnOnce(TcpStream)) -> io::Result<String> {
        let (mut client, mut server) = pair().await;
        client.write_all(b"unread").await.unwrap();
        server.write_all(b"farewell").await.unwrap();
        let closing = close(server);
        let reading = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            client.write_all(b"more").await?;
            let mut heard = String::new();
            client.read_to_string(&mut heard).await?;
            drop(client);
            Ok(heard)
        };
        tokio::join!(closing, reading).1
    }

    #[tokio::test]
    async fn a_peer_that_was_writing_reads_to_the_end() {
        assert!(last_words(async |server| drop(server)).await.is_err(), "the control is reset");
        let lingering = async |server| Lingering::new(server).shutdown().await.unwrap();
        assert_eq!(last_words(lingering).await.unwrap(), "farewell");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stays_is_left() {
        let (_client, server) = tokio::io::duplex(64);
        let began = tokio::time::Instant::now();
        Lingering::new(server).shutdown().await.unwrap();
        assert_eq!(tokio::time::Instant::now() - began, TIME);
    }
}
