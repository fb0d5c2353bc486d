//! A connection whose writes wait for the end of a turn: what HTTP/2 writes frame by frame leaves as one write, and
//! within the mesh as one TLS record.
//!
//! A turn is one poll of the future that uses the connection ([`Turns`]). What a peer that does not read leaves here is
//! bounded by [`ROOM`]. Knows no protocol.

use std::{
    cell::RefCell,
    future::Future,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::spawn_local,
};

/// What waits at most: the plaintext of one TLS record.
const ROOM: usize = 16 * 1024;
/// Copying more than this costs more than a write of its own.
const LARGE: usize = 8 * 1024;

/// The connection, for whoever reads and writes.
pub struct Corked<IO>(Rc<RefCell<State<IO>>>);

/// Ends the turns of a connection, for as long as it is open.
pub struct Cork<IO>(Weak<RefCell<State<IO>>>);

struct State<IO> {
    io: IO,
    waiting: BytesMut,
    broken: Option<io::Error>,
    // both in this turn
    touched: bool,
    refused: bool,
}

pin_project! {
    /// A future each of whose polls is a turn.
    pub struct Turns<IO, F> {
        cork: Cork<IO>,
        #[pin]
        future: F,
    }
}

/// Corks a connection.
pub fn cork<IO>(io: IO) -> (Corked<IO>, Cork<IO>) {
    let state = State { io, waiting: BytesMut::new(), broken: None, touched: false, refused: false };
    let state = Rc::new(RefCell::new(state));
    let cork = Cork(Rc::downgrade(&state));
    (Corked(state), cork)
}

impl<IO> Cork<IO> {
    /// Makes turns of a future's polls.
    pub fn turns<F>(self, future: F) -> Turns<IO, F> {
        Turns { cork: self, future }
    }
}

impl<IO: AsyncWrite + Unpin> Cork<IO> {
    /// Writes what waits. A failure shows in the next turn.
    pub fn end_turn(&self, cx: &mut Context<'_>) {
        let Some(state) = self.0.upgrade() else { return };
        let state = &mut *state.borrow_mut();
        // only who used the connection in this turn may be the one that it wakes
        if mem::take(&mut state.touched) {
            let flushed = state.poll_flush(cx);
            let more = mem::take(&mut state.refused) && flushed.is_ready();
            if let Poll::Ready(Err(error)) = flushed {
                state.broken = Some(error);
            }
            if more || state.broken.is_some() {
                cx.waker().wake_by_ref();
            }
        }
    }
}

impl<IO> Clone for Cork<IO> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Spawns hyper's tasks on this thread, one of which uses the connection.
impl<IO: AsyncWrite + Unpin + 'static, F: Future<Output: 'static> + 'static> Executor<F> for Cork<IO> {
    fn execute(&self, future: F) {
        spawn_local(self.clone().turns(future));
    }
}

impl<IO: AsyncWrite + Unpin, F: Future> Future for Turns<IO, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let polled = this.future.poll(cx);
        this.cork.end_turn(cx);
        polled
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Corked<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        state.touched = true;
        Pin::new(&mut state.io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Corked<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        state.touched = true;
        // what waits is written at the end of the turn
        Poll::Ready(state.broken.take().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        ready!(state.poll_flush(cx))?;
        Pin::new(&mut state.io).poll_shutdown(cx)
    }
}

impl<IO: AsyncWrite + Unpin> State<IO> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
        }
        self.waiting = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.touched = true;
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.waiting.len() + length > ROOM {
            self.refused = true;
            ready!(self.poll_drain(cx))?;
            self.refused = false;
        }
        if length > LARGE {
            ready!(self.poll_drain(cx))?;
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        if self.waiting.is_empty() {
            self.waiting.reserve(ROOM);
        }
        for slice in slices {
            self.waiting.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::{Wake, Waker},
    };

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn arrived(peer: &mut DuplexStream, room: usize) -> usize {
        let mut buffer = vec![0; room];
        let read = poll_fn(|cx| {
            let mut buffer = ReadBuf::new(&mut buffer);
            let polled = Pin::new(&mut *peer).poll_read(cx, &mut buffer);
            Poll::Ready(polled.map_ok(|()| buffer.filled().len()))
        });
        match read.await {
            Poll::Ready(read) => read.unwrap(),
            Poll::Pending => 0,
        }
    }

    #[tokio::test]
    async fn a_turn_is_one_write() {
        let (ours, mut peer) = duplex(1024 * 1024);
        let (mut corked, cork) = cork(ours);
        corked.write_all(b"head").await.unwrap();
        corked.flush().await.unwrap();
        corked.write_all(&[7; 1000]).await.unwrap();
        assert_eq!(arrived(&mut peer, 5000).await, 0, "the turn has not ended");
        cork.turns(async {}).await;
        assert_eq!(arrived(&mut peer, 5000).await, 1004);
        corked.write_all(&vec![7; 20_000]).await.unwrap();
        assert_eq!(arrived(&mut peer, 50_000).await, 20_000, "what is large is not copied");
        corked.write_all(b"farewell").await.unwrap();
        corked.shutdown().await.unwrap();
        assert_eq!(arrived(&mut peer, 5000).await, 8);
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_waited_for() {
        let (ours, mut peer) = duplex(1000);
        let (mut corked, cork) = cork(ours);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let mut turn = |frames: usize| {
            let taken = (0..frames)
                .filter(|_| Pin::new(&mut corked).poll_write(&mut cx, &[7; 1000]).is_ready())
                .count();
            assert!(Pin::new(&mut corked).poll_flush(&mut cx).is_ready());
            cork.end_turn(&mut cx);
            taken
        };
        assert_eq!(turn(100), 17, "what the connection takes, and what may wait");
        assert_eq!(turn(100), 0);
        let mut buffer = vec![0; 1000];
        for kilobytes in 1..=16 {
            peer.read_exact(&mut buffer).await.unwrap();
            assert_eq!(woken.0.load(Ordering::Relaxed), kilobytes, "there is room");
            turn(0);
        }
        peer.read_exact(&mut buffer).await.unwrap();
        assert_eq!(turn(1), 1);
    }

    #[tokio::test]
    async fn a_failure_shows_in_the_next_turn() {
        let (ours, peer) = duplex(1000);
        let (mut corked, cork) = cork(ours);
        drop(peer);
        corked.write_all(b"lost").await.unwrap();
        cork.turns(async {}).await;
        assert_eq!(corked.flush().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn the_connection_closes_with_its_user() {
        let (ours, mut peer) = duplex(1000);
        let (corked, cork) = cork(ours);
        let other = cork.clone();
        drop(corked);
        assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
        drop((cork, other));
    }
}
