//! What binds a connection of our own making to the certificates that it stands on: it is cut when they expire or when
//! a root of theirs is trusted no more, whatever is in flight.
//!
//! The stream looks at it where it would wait anyway; the worker's sweep pulls. Knows no protocol.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
    time::Instant,
};

use byrnie_identity::Identity;
use futures::task::AtomicWaker;

use crate::standing::Counted;

/// See the module.
#[derive(Debug)]
pub struct Tie {
    expires: Instant,
    counted: Counted,
    cut: AtomicBool,
    reader: AtomicWaker,
}

impl Tie {
    /// Holds until the certificates expire.
    pub fn new(expires: Instant, counted: Counted) -> Self {
        Self { expires, counted, cut: AtomicBool::new(false), reader: AtomicWaker::new() }
    }

    /// Cuts it if its certificates have expired.
    pub fn check(&self, now: Instant) {
        if now >= self.expires {
            self.cut();
        }
    }

    /// Cuts it if it stands on a root that is trusted no more.
    pub fn reconsider(&self, identity: &Identity) {
        if !identity.still_trusts(&self.counted.standing) {
            self.cut();
        }
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// Before bytes pass: an error once it is cut.
    pub fn holds(&self) -> io::Result<()> {
        if self.cut.load(Ordering::Acquire) { Err(Self::error()) } else { Ok(()) }
    }

    /// Where a read found nothing: it is woken when the tie is cut.
    pub fn wait(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.reader.register(cx.waker());
        // it may have been cut before anybody could be woken
        self.holds().map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending)
    }

    fn error() -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, "the connection's certificates are trusted no more")
    }
}
