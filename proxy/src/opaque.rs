//! Copies bytes between two streams, both ways at once, half-closes included.
//!
//! Owns the buffers: they start small and grow with what has passed, because most connections are small. Knows
//! nothing of what it copies.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};

/// A buffer's size, from so many bytes on. A TLS record carries 16 KiB.
const SIZES: [(u64, usize); 3] = [(0, 2 * 1024), (64 * 1024, 16 * 1024), (4 * 1024 * 1024, 64 * 1024)];

/// What has passed; can be read while the copy goes on.
#[derive(Debug, Default)]
pub struct Meter {
    /// From the client.
    pub received: Cell<u64>,
    /// To the client.
    pub sent: Cell<u64>,
}

/// Copies until both sides have ended, one fails, or nothing has passed for `idle`.
pub async fn copy(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    server: &mut (impl AsyncRead + AsyncWrite + Unpin),
    meter: &Meter,
    idle: Option<Duration>,
) -> io::Result<()> {
    let mut up = Half::default();
    let mut down = Half::default();
    let copying = poll_fn(|cx| {
        let upwards = up.poll(cx, client, server, &meter.received)?;
        let downwards = down.poll(cx, server, client, &meter.sent)?;
        if upwards.is_ready() && downwards.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    });
    let Some(idle) = idle else { return copying.await };
    let passed = || meter.received.get() + meter.sent.get();
    let silence = async {
        let mut before = None;
        while before != Some(passed()) {
            before = Some(passed());
            sleep(idle).await;
        }
    };
    tokio::select! {
        done = copying => done,
        () = silence => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing passed for the idle time-out")),
    }
}

/// One direction.
#[derive(Default)]
struct Half {
    buffer: Vec<u8>,
    filled: usize,
    written: usize,
    unflushed: bool,
    state: State,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Copying,
    Ending,
    Done,
}

impl Half {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        count: &Cell<u64>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.state {
                State::Copying => {}
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = State::Done;
                }
                State::Done => return Poll::Ready(Ok(())),
            }
            if self.state == State::Done {
                continue;
            }
            if self.written == self.filled {
                match self.fill(cx, from, count.get())? {
                    Poll::Ready(0) => {
                        self.buffer = Vec::new();
                        self.state = State::Ending;
                        continue;
                    }
                    Poll::Ready(_) => {}
                    Poll::Pending => {
                        if self.unflushed {
                            ready!(Pin::new(&mut *to).poll_flush(cx))?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                }
            }
            while self.written < self.filled {
                let written =
                    ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[self.written..self.filled]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.written += written;
                self.unflushed = true;
                count.set(count.get() + written as u64);
            }
        }
    }

    fn fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        passed: u64,
    ) -> Poll<io::Result<usize>> {
        let size =
            SIZES.iter().rev().find(|(after, _)| passed >= *after).map_or(SIZES[0].1, |(_, size)| *size);
        if self.buffer.len() != size {
            self.buffer = vec![0; size];
        }
        let mut into = ReadBuf::new(&mut self.buffer);
        let read = Pin::new(from).poll_read(cx, &mut into);
        if read.is_pending() && size == SIZES[0].1 {
            // who says little needs no buffer while silent
            self.buffer = Vec::new();
            (self.filled, self.written) = (0, 0);
            return Poll::Pending;
        }
        ready!(read)?;
        self.filled = into.filled().len();
        self.written = 0;
        Poll::Ready(Ok(self.filled))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn everything_arrives_and_half_closes_stay_half() {
        let (mut app, mut client) = duplex(1000);
        let (mut server, mut peer) = duplex(777);
        let meter = Meter::default();
        let question: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let asking = async {
            app.write_all(&question).await.unwrap();
            app.shutdown().await.unwrap();
            let mut answer = Vec::new();
            app.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let answering = async {
            let mut heard = Vec::new();
            peer.read_to_end(&mut heard).await.unwrap();
            peer.write_all(&heard[..5]).await.unwrap();
            peer.shutdown().await.unwrap();
            heard
        };
        let (answer, heard, copied) =
            tokio::join!(asking, answering, copy(&mut client, &mut server, &meter, None));
        copied.unwrap();
        assert!(heard == question && answer == question[..5]);
        assert_eq!((meter.received.get(), meter.sent.get()), (300_000, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_at_the_idle_limit_only() {
        let (mut app, mut client) = duplex(64);
        let (mut server, _peer) = duplex(64);
        let meter = Meter::default();
        let talking = async {
            for _ in 0..5 {
                sleep(Duration::from_secs(9)).await;
                app.write_all(b"x").await.unwrap();
            }
            tokio::time::Instant::now()
        };
        let idle = Some(Duration::from_secs(10));
        let (last, ended) = tokio::join!(talking, copy(&mut client, &mut server, &meter, idle));
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let waited = tokio::time::Instant::now() - last;
        assert!((10..=20).contains(&waited.as_secs()), "{waited:?}");
        assert_eq!(meter.received.get(), 5);
    }
}
