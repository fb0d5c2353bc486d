//! Reads HTTP/1 requests before hyper does, and lets only those pass that nobody can misread.
//!
//! hyper forwards what other servers understand differently (two Hosts, two framings, bare line feeds). The guard sits
//! between the socket and hyper: a good request passes byte by byte as it came; instead of a bad one hyper gets a
//! stand-in that [`refusal`] recognises, so that it is answered in its turn, with a reason, and the connection ends.
//! Bad framing inside a body is an error of the body. Must not know what a request means.

mod chunk;
mod head;
mod violation;

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

use self::{head::Framing, violation::Violation as V};
pub use self::{
    head::MAX_HEAD,
    violation::{Violation, refusal},
};
use crate::linger::Lingering;

/// A head, or a line of framing, ends this long after its first byte.
pub const PATIENCE: Duration = Duration::from_secs(10);
const READ: usize = 4096;

/// The guard around a connection.
#[derive(Debug)]
pub struct Guard<IO> {
    io: Lingering<IO>,
    expects: Expects,
    /// Bytes that hyper has not got yet: the start of a unit that is not complete, or what follows it.
    held: Vec<u8>,
    /// How many of them may pass, and how many of those have.
    cleared: usize,
    given: usize,
    deadline: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    Head,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// A request to upgrade passed: what follows may not be HTTP, and waits until that is decided.
    Upgrade,
    /// The stand-in was handed over.
    Refused,
    /// The body cannot be read any further.
    Broken(Violation),
}

/// What the next bytes are.
enum Unit {
    /// So many of them pass, and then this is expected.
    Whole(usize, Expects),
    /// More are needed to tell.
    Partial,
}

impl<IO> Guard<IO> {
    /// Guards a connection from its first byte.
    pub fn new(io: IO) -> Self {
        Self {
            io: Lingering::new(io),
            expects: Expects::Head,
            held: Vec::new(),
            cleared: 0,
            given: 0,
            deadline: None,
        }
    }

    /// The connection, after an upgrade, and what was already read from it.
    pub fn into_parts(mut self) -> (IO, Vec<u8>) {
        self.held.drain(..self.given);
        (self.io.into_inner(), self.held)
    }

    /// The connection behind the guard.
    pub fn get_ref(&self) -> &IO {
        self.io.get_ref()
    }

    /// Decides about fresh bytes: how many of them may pass.
    fn check(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match next(self.expects, &bytes[at..]) {
                Ok(Unit::Whole(len, expects)) => {
                    at += len;
                    self.expects = expects;
                }
                Ok(Unit::Partial) => break,
                Err(violation) if self.expects == Expects::Head => {
                    self.refuse(violation);
                    break;
                }
                Err(violation) => {
                    self.expects = Expects::Broken(violation);
                    break;
                }
            }
        }
        at
    }

    /// Nothing of what is held passes; the stand-in does.
    fn refuse(&mut self, violation: Violation) {
        self.expects = Expects::Refused;
        self.held = violation.stand_in();
        (self.cleared, self.given) = (self.held.len(), 0);
        self.deadline = None;
    }

    /// Looks at what is held after more has come.
    fn check_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        let passed = self.check(&held);
        if self.expects == Expects::Refused {
            // what was good before the bad request passes first
            let stand_in = std::mem::replace(&mut self.held, held);
            self.held.truncate(passed);
            self.held.extend_from_slice(&stand_in);
            self.cleared = self.held.len();
        } else {
            self.held = held;
            self.cleared = passed;
        }
        if passed > 0 || self.waits_for_nothing() {
            self.deadline = None;
        }
    }

    fn waits_for_nothing(&self) -> bool {
        matches!(self.expects, Expects::Refused | Expects::Broken(_) | Expects::Upgrade)
    }

    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let len = buffer.remaining().min(self.cleared - self.given);
        buffer.put_slice(&self.held[self.given..self.given + len]);
        self.given += len;
        if self.given == self.cleared {
            self.held.drain(..self.given);
            (self.cleared, self.given) = (0, 0);
            if self.held.is_empty() {
                self.held = Vec::new();
            }
        }
    }
}

fn next(expects: Expects, bytes: &[u8]) -> Result<Unit, Violation> {
    let take = |wanted: u64| usize::try_from(wanted).map_or(bytes.len(), |w| w.min(bytes.len()));
    let or_partial =
        |len: Option<usize>, then: Expects| len.map_or(Unit::Partial, |len| Unit::Whole(len, then));
    Ok(match expects {
        Expects::Head => match head::parse(bytes)? {
            None => Unit::Partial,
            Some(head) if head.websocket => Unit::Whole(head.len, Expects::Upgrade),
            Some(head) => Unit::Whole(
                head.len,
                match head.framing {
                    Framing::Sized(0) => Expects::Head,
                    Framing::Sized(len) => Expects::Body(len),
                    Framing::Chunked => Expects::ChunkSize,
                },
            ),
        },
        Expects::Body(left) => {
            let len = take(left);
            let left = left - len as u64;
            Unit::Whole(len, if left == 0 { Expects::Head } else { Expects::Body(left) })
        }
        Expects::ChunkSize => match chunk::size_line(bytes)? {
            None => Unit::Partial,
            Some((len, 0)) => Unit::Whole(len, Expects::Trailers),
            Some((len, size)) => Unit::Whole(len, Expects::Chunk(size)),
        },
        Expects::Chunk(left) => {
            let len = take(left);
            let left = left - len as u64;
            Unit::Whole(len, if left == 0 { Expects::ChunkEnd } else { Expects::Chunk(left) })
        }
        Expects::ChunkEnd => or_partial(chunk::end(bytes)?, Expects::ChunkSize),
        Expects::Trailers => or_partial(chunk::trailers(bytes)?, Expects::Head),
        Expects::Upgrade | Expects::Refused | Expects::Broken(_) => Unit::Partial,
    })
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Guard<IO> {
    /// Returns when there is something to read: a head, or why there is none.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.cleared == 0 && !self.waits_for_nothing() {
            // an error is for whoever reads then
            let Ok(true) = ready!(self.poll_more(cx)) else { break };
        }
        Poll::Ready(())
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        deadline.as_mut().poll(cx).is_ready()
    }

    /// Reads more behind what is held. `false` at the end of the stream.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if !self.held.is_empty() && self.is_late(cx) {
            if self.expects == Expects::Head {
                self.refuse(V::Timeout);
            } else {
                self.expects = Expects::Broken(V::Timeout);
            }
            return Poll::Ready(Ok(true));
        }
        // not into what is held: whoever sends one byte at a time would cost a whole buffer
        let mut scrap = [const { MaybeUninit::uninit() }; READ];
        let mut buffer = ReadBuf::uninit(&mut scrap);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        let fresh = buffer.filled();
        if fresh.is_empty() {
            return Poll::Ready(Ok(false));
        }
        self.held.extend_from_slice(fresh);
        self.check_held();
        Poll::Ready(Ok(true))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.given < this.cleared {
                this.give(buffer);
                return Poll::Ready(Ok(()));
            }
            match this.expects {
                // hyper closes when it has answered
                Expects::Refused | Expects::Upgrade => return Poll::Pending,
                Expects::Broken(violation) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
                }
                _ => {}
            }
            if !this.held.is_empty() {
                if !ready!(this.poll_more(cx))? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
            let fresh = &buffer.filled()[before..];
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let passed = this.check(fresh);
            if passed < fresh.len() && this.expects != Expects::Refused {
                this.held.extend_from_slice(&fresh[passed..]);
            }
            buffer.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // a refused client should read its answer, not a reset
        match this.expects {
            Expects::Refused | Expects::Broken(_) => Pin::new(&mut this.io).poll_shutdown(cx),
            _ => Pin::new(this.io.get_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
