//! Where an accepted connection was going before the redirect, or where its listener says that it goes.
//!
//! Owns the one socket option that tells. Knows nothing of what is behind an address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::SockRef;
use tokio::net::TcpStream;

/// How a listener learns the destinations of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The kernel redirected the connection and remembers.
    Redirected,
    /// Every connection of this listener goes to one address: an application's port, or the address that names a
    /// destination in the configuration file.
    Fixed(SocketAddr),
    /// The application was told to ask here, and names a host for each request or connection.
    Asked {
        /// Whether hosts that are no service are let through.
        pass: bool,
    },
}

impl Source {
    /// The destination of an accepted connection.
    ///
    /// # Errors
    /// When nothing was redirected: somebody dialled the listener itself, which would be a loop.
    pub fn destination(self, stream: &TcpStream) -> io::Result<SocketAddr> {
        match self {
            Self::Redirected => original_destination(stream),
            Self::Fixed(address) => Ok(address),
            Self::Asked { .. } => Err(io::Error::other("a forward proxy's connection has no destination")),
        }
    }
}

/// What the kernel's connection tracking says that the peer dialled.
///
/// # Errors
/// When there was no redirect, or the system cannot tell.
pub fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let listener = plain(stream.local_addr()?);
    let socket = SockRef::from(stream);
    let original = match listener.ip() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    }?;
    let original = original
        .as_socket()
        .map(plain)
        .ok_or_else(|| io::Error::other("original destination is not an IP address"))?;
    if original == listener {
        return Err(io::Error::other("the proxy's own listener was dialled"));
    }
    Ok(original)
}

/// IPv4 addresses as such, also where a dual-stack socket shows them as IPv6.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
