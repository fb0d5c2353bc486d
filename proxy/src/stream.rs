//! The byte streams of the data path: TCP as accepted or dialled, with or without the mesh's TLS around it.
//!
//! Owns the bytes that were read too early (to see what is spoken). Knows no protocol. Vectored writes are passed
//! on everywhere: without them every response is copied once more.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsStream, client};

use crate::tie::Tie;

/// TCP whose first bytes have been read already; they are read again before the rest.
#[derive(Debug)]
pub struct Prefixed {
    prefix: Bytes,
    tcp: TcpStream,
    vigil: Option<Vigil>,
    tie: Option<Arc<Tie>>,
}

/// Whether a connection is given up when its peer acknowledges nothing for [`UNACKNOWLEDGED`].
///
/// That is how a node that vanished is noticed. But Linux also ends a connection whose peer is alive and does not
/// read for that long, so it must be off while so much may be on its way that the peer's window can fill.
#[derive(Clone, Debug)]
pub struct Vigilance(Arc<AtomicBool>);

#[derive(Debug)]
struct Vigil {
    wanted: Vigilance,
    set: bool,
}

/// Nothing acknowledged for this long: the peer is gone (L19).
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// One side of a connection through the proxy.
#[derive(Debug)]
pub enum Stream {
    /// The application's bytes as they are.
    Plain(Prefixed),
    /// Within the mesh.
    Mesh(Box<Mesh>),
}

/// TLS within the mesh.
#[derive(Debug)]
pub struct Mesh {
    tls: TlsStream<Prefixed>,
    /// Nothing is left to be read until the socket has more. HTTP asks so often that TLS need not look each time.
    drained: bool,
}

impl Prefixed {
    /// Puts bytes back in front of a stream.
    pub fn new(prefix: Bytes, tcp: TcpStream) -> Self {
        Self { prefix, tcp, vigil: None, tie: None }
    }

    /// A connection of our own making, with a switch for its vigilance, which is off.
    pub fn vigilant(tcp: TcpStream) -> (Self, Vigilance) {
        let wanted = Vigilance(Arc::default());
        let vigil = Some(Vigil { wanted: wanted.clone(), set: false });
        (Self { vigil, ..Self::from(tcp) }, wanted)
    }

    /// An error when the certificates that the connection stands on are good no more.
    fn holds(&self) -> io::Result<()> {
        self.tie.as_ref().map_or(Ok(()), |tie| tie.holds())
    }

    /// Before bytes leave. Two loads, unless something changed.
    fn watch(&mut self) -> io::Result<()> {
        if let Some(vigil) = &mut self.vigil {
            let wanted = vigil.wanted.0.load(Ordering::Relaxed);
            if wanted != vigil.set {
                vigil.set = wanted;
                let limit = wanted.then_some(UNACKNOWLEDGED);
                // a socket that refuses is broken, which the write that follows will say
                let _ = SockRef::from(&self.tcp).set_tcp_user_timeout(limit.or(Some(Duration::ZERO)));
            }
        }
        self.holds()
    }

    /// Whether a read would find something.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.holds()?;
        match (&self.tie, self.tcp.poll_read_ready(cx)) {
            (Some(tie), Poll::Pending) => tie.wait(cx),
            (_, polled) => polled,
        }
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

impl Vigilance {
    /// Takes effect with the next bytes that are written.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }
}

impl From<TcpStream> for Prefixed {
    fn from(tcp: TcpStream) -> Self {
        Self::new(Bytes::new(), tcp)
    }
}

impl Stream {
    /// TLS whose handshake is done.
    pub fn mesh(tls: impl Into<TlsStream<Prefixed>>) -> Self {
        Self::Mesh(Box::new(Mesh { tls: tls.into(), drained: false }))
    }

    /// Within the mesh, for as long as the certificates are trusted that it stands on.
    pub fn tied(mut tls: client::TlsStream<Prefixed>, tie: Arc<Tie>) -> Self {
        tls.get_mut().0.tie = Some(tie);
        Self::mesh(tls)
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(plain) => &plain.tcp,
            Self::Mesh(mesh) => &mesh.tls.get_ref().0.tcp,
        }
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            self.holds()?;
            let polled = Pin::new(&mut self.tcp).poll_read(cx, buf);
            return match (&self.tie, &polled) {
                (Some(tie), Poll::Pending) => tie.wait(cx),
                _ => polled,
            };
        }
        let length = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..length]);
        self.prefix.advance(length);
        if self.prefix.is_empty() {
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.watch()?;
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watch()?;
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl Mesh {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.drained {
            ready!(self.tls.get_ref().0.poll_ready(cx))?;
        }
        let polled = Pin::new(&mut self.tls).poll_read(cx, buf);
        self.drained = polled.is_pending();
        polled
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_read(cx, buf),
            Self::Mesh(mesh) => mesh.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_write(cx, buf),
            Self::Mesh(mesh) => Pin::new(&mut mesh.tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_write_vectored(cx, bufs),
            Self::Mesh(mesh) => Pin::new(&mut mesh.tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(plain) => plain.is_write_vectored(),
            Self::Mesh(mesh) => mesh.tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_flush(cx),
            Self::Mesh(mesh) => Pin::new(&mut mesh.tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_shutdown(cx),
            Self::Mesh(mesh) => Pin::new(&mut mesh.tls).poll_shutdown(cx),
        }
    }
}
