//! Message bodies on their way through: one enum, frames of [`Bytes`], nothing boxed.
//!
//! Owns what is kept of a request's body so that it can be sent again, the limit on a sender that stalls, and what
//! must happen when the last byte has passed. Never collects a body.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::{
    balance::Pending, breaker::Fault, exchange::Exchange, headers, pace::Pace, pool::Lease, verdict,
};

/// Request bodies up to this size can be sent again.
pub const MAX_KEPT: usize = 64 * 1024;

/// A longer request body seldom comes together with its head.
const LONG: u64 = 16 * 1024;

/// Any body that this proxy sends.
#[derive(Debug, Default)]
pub enum ProxyBody {
    /// Nothing.
    #[default]
    Empty,
    /// A text of our own.
    Full(Bytes),
    /// A request's body, as it comes in.
    Upload(Reader),
    /// A request's body that has come in already.
    Whole(Box<Whole>),
    /// A response's body, as it comes in.
    Download(Box<Download>),
}

/// Why a body ends before its time.
#[derive(Debug, Error)]
pub enum BodyError {
    /// The connection that it comes from failed.
    #[error("the other side ended the body early")]
    Cut(#[source] hyper::Error),
    /// Its sender paused for too long.
    #[error("the body's sender sent nothing for {0:?}")]
    Stalled(Duration),
    /// The request's time is over.
    #[error("the request's time is over")]
    Deadline,
    /// The request is being sent again elsewhere.
    #[error("the request is sent again elsewhere")]
    Superseded,
}

/// A request's body, kept as long as it is short and no response has begun.
#[derive(Debug)]
pub struct Upload {
    incoming: Incoming,
    hint: SizeHint,
    // copied: a byte of its own would keep the whole buffer in memory that it was read into
    kept: Vec<u8>,
    keeping: bool,
    trailers: Option<HeaderMap>,
    ended: bool,
    reader: u32,
    stall: Stall,
    bytes: u64,
}

/// A request's body when all of it has come in.
#[derive(Clone, Debug)]
pub struct Whole {
    data: Bytes,
    /// What was said of its size, perhaps nothing.
    hint: SizeHint,
    trailers: Option<HeaderMap>,
}

/// One attempt's view of an [`Upload`].
#[derive(Debug)]
pub struct Reader {
    upload: Rc<RefCell<Upload>>,
    number: u32,
    at: usize,
    ended: bool,
}

/// A response's body with all that waits for its end.
#[derive(Debug)]
pub struct Download {
    incoming: Incoming,
    deadline: Option<Pin<Box<Sleep>>>,
    pace: Option<Rc<Pace>>,
    // dropped in this order: the connection is free before the request counts as done
    lease: Option<Lease>,
    pending: Option<Pending>,
    exchange: Box<Exchange>,
}

#[derive(Debug)]
struct Stall {
    limit: Option<Duration>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    /// A body that may pause for at most `stall` at a time.
    pub fn new(incoming: Incoming, stall: Option<Duration>) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            hint: incoming.size_hint(),
            incoming,
            kept: Vec::new(),
            keeping: true,
            trailers: None,
            ended: false,
            reader: 0,
            stall: Stall { limit: stall, sleep: None },
            bytes: 0,
        }))
    }

    /// Whether the body can be sent again from its start.
    pub fn is_replayable(&self) -> bool {
        self.keeping
    }

    /// Whether it may be on its way for a while.
    pub fn is_long(&self) -> bool {
        self.hint.upper().is_none_or(|bytes| bytes > LONG)
    }

    /// No attempt will follow: nothing more is kept.
    pub fn release(&mut self) {
        self.keeping = false;
    }

    /// All of it, if it has come in and is still here.
    pub fn whole(&self) -> Option<Whole> {
        // after the last byte of a known length nobody asks for more
        let ended = self.ended || self.incoming.is_end_stream();
        let all = ended && self.bytes == self.kept.len() as u64;
        all.then(|| Whole {
            data: Bytes::copy_from_slice(&self.kept),
            hint: self.hint,
            trailers: self.trailers.clone(),
        })
    }

    /// Bytes that have come in.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Starts reading from the start, and ends the reader before.
    pub fn open(upload: &Rc<RefCell<Self>>) -> Reader {
        let mut this = upload.borrow_mut();
        this.reader += 1;
        Reader { upload: upload.clone(), number: this.reader, at: 0, ended: false }
    }

    fn poll(
        &mut self,
        at: &mut usize,
        ended: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if *at < self.kept.len() {
            let again = Bytes::copy_from_slice(&self.kept[*at..]);
            *at = self.kept.len();
            return Poll::Ready(Some(Ok(Frame::data(again))));
        }
        if !self.keeping && *at > 0 {
            self.kept = Vec::new();
            *at = 0;
        }
        if self.ended {
            let first = !std::mem::replace(ended, true);
            let trailers = self.trailers.as_ref().filter(|_| first);
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers.clone()))));
        }
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => return self.stall.poll(cx).map(|error| Some(Err(error))),
        };
        self.stall.sleep = None;
        let frame = match frame {
            None => {
                self.ended = true;
                return Poll::Ready(None);
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Cut(error)))),
            Some(Ok(frame)) => frame,
        };
        match frame.into_data() {
            Ok(data) => {
                self.bytes += data.len() as u64;
                if self.keeping && self.kept.len() + data.len() <= MAX_KEPT {
                    self.kept.extend_from_slice(&data);
                    *at = self.kept.len();
                } else {
                    self.keeping = false;
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(frame) => {
                (self.ended, *ended) = (true, true);
                let Ok(mut trailers) = frame.into_trailers() else { return Poll::Ready(None) };
                headers::strip_trailers(&mut trailers);
                if self.keeping {
                    self.trailers = Some(trailers.clone());
                }
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }
}

impl Download {
    /// A response's body; `deadline` cuts it off, and `pace` makes it wait for a client that may not read.
    pub fn new(
        incoming: Incoming,
        (lease, pending): (Lease, Pending),
        exchange: Box<Exchange>,
        deadline: Option<Instant>,
        pace: Option<Rc<Pace>>,
    ) -> Box<Self> {
        let deadline = deadline.map(|at| Box::pin(sleep_until(at)));
        let (lease, pending) = (Some(lease), Some(pending));
        let mut this = Box::new(Self { incoming, deadline, pace, lease, pending, exchange });
        if this.incoming.is_end_stream() {
            this.ended();
        }
        this
    }

    fn ended(&mut self) {
        self.exchange.complete();
        self.lease = None;
        self.pending = None;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(BodyError::Deadline)));
        }
        if self.pace.as_ref().is_some_and(|pace| pace.waits(self.exchange.bytes_sent())) {
            return Poll::Pending;
        }
        let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            None => {
                self.ended();
                return Poll::Ready(None);
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Cut(error)))),
            Some(Ok(frame)) => frame,
        };
        match frame.into_data() {
            Ok(data) => {
                self.exchange.sent(data.len());
                if let Some(pace) = &self.pace {
                    pace.pass(data.len());
                }
                if self.incoming.is_end_stream() {
                    self.ended();
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(frame) => {
                let Ok(mut trailers) = frame.into_trailers() else { return Poll::Ready(None) };
                headers::strip_trailers(&mut trailers);
                if let Some(pending) = &self.pending
                    && verdict::is_late_fault(&trailers)
                {
                    pending.member().failed(Fault::Failing);
                }
                self.ended();
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }
}

impl Stall {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let Some(limit) = self.limit else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(limit)));
        sleep.as_mut().poll(cx).map(|()| BodyError::Stalled(limit))
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            body @ Self::Full(_) => match std::mem::take(body) {
                Self::Full(text) => Poll::Ready(Some(Ok(Frame::data(text)))),
                _ => Poll::Ready(None),
            },
            Self::Upload(reader) => {
                let mut upload = reader.upload.borrow_mut();
                if upload.reader != reader.number {
                    return Poll::Ready(Some(Err(BodyError::Superseded)));
                }
                upload.poll(&mut reader.at, &mut reader.ended, cx)
            }
            Self::Whole(whole) => {
                if !whole.data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut whole.data)))));
                }
                Poll::Ready(whole.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Self::Download(download) => download.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Upload(reader) => {
                let upload = reader.upload.borrow();
                let nothing_more = if upload.ended {
                    reader.ended || upload.trailers.is_none()
                } else {
                    upload.incoming.is_end_stream()
                };
                reader.at == upload.kept.len() && nothing_more
            }
            Self::Whole(whole) => whole.data.is_empty() && whole.trailers.is_none(),
            Self::Download(download) => download.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(text) => SizeHint::with_exact(text.len() as u64),
            Self::Upload(reader) if reader.at == 0 => reader.upload.borrow().hint,
            Self::Whole(whole) if !whole.data.is_empty() => whole.hint,
            Self::Upload(_) | Self::Whole(_) => SizeHint::default(),
            Self::Download(download) => download.incoming.size_hint(),
        }
    }
}
