//! A WebSocket after its 101: bytes both ways, accounted for as one long request.
//!
//! Nothing passes before the server has agreed (GHSA on early bytes after `Upgrade`). Knows nothing of frames.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::{
    activity::Activity,
    balance::Pending,
    exchange::Exchange,
    opaque::{Meter, copy},
};

/// The server's side of a switched connection, and what waits for its end.
#[derive(Debug)]
pub struct Tunnel {
    /// Resolves to the bytes behind the server's 101.
    pub server: OnUpgrade,
    /// Load on the endpoint.
    pub pending: Pending,
    /// The account.
    pub exchange: Box<Exchange>,
}

impl Tunnel {
    /// Copies until both sides have ended; `early` is what the client sent right behind its request.
    pub async fn run(
        mut self,
        mut client: impl AsyncRead + AsyncWrite + Unpin,
        early: Vec<u8>,
        activity: &Activity,
    ) {
        let meter = Meter::default();
        let copying = async {
            let server = self.server.await.map_err(std::io::Error::other)?;
            let mut server = TokioIo::new(server);
            server.write_all(&early).await?;
            copy(&mut client, &mut server, &meter, None).await
        };
        tokio::select! {
            ended = copying => if let Err(error) = ended {
                tracing::debug!(%error, "an upgraded connection ended with an error");
            },
            _ = activity.ending() => {}
        }
        self.exchange.sent(usize::try_from(meter.sent.get()).unwrap_or(usize::MAX));
        self.exchange.complete();
    }
}
