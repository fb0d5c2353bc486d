//! What a finished handshake gives, and what an unfinished one says.

use std::{fmt, io, time::SystemTime};

use byrnie_model::SpiffeId;
use rustls::AlertDescription;
use rustls_pki_types::{CertificateDer, UnixTime};
use thiserror::Error;
use tokio_rustls::{client, server};

use crate::{
    bundle::{Anchors, RootId},
    identity::{HANDSHAKE_LIMIT, NotReady},
    verify::{CertificateFault, Claim, Role, fault_of, read_leaf, verify},
};

/// What is spoken inside a mesh connection; the version is part of the name (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/2.
    Http2,
    /// HTTP/1.1.
    Http1,
    /// Bytes, of which the server's first says whether its application has taken the connection.
    ConfirmedTcp,
    /// Bytes; for peers that do not know the former.
    Tcp,
}

/// The roots that a connection stands on: when either of them is no longer trusted, it must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Of the certificate that we have shown.
    pub own: RootId,
    /// Of the peer's.
    pub peer: RootId,
}

/// A caller, verified.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// The connection; not a byte has been read from it.
    pub stream: server::TlsStream<IO>,
    /// Who calls.
    pub peer: SpiffeId,
    /// What it wants to speak.
    pub alpn: Alpn,
    /// The earlier end of both certificates: the connection must not outlive it.
    pub not_after: SystemTime,
    /// Whose certificates both are.
    pub standing: Standing,
}

/// A server, verified to be the expected one.
#[derive(Debug)]
pub struct Connected<IO> {
    /// The connection; not a byte has been written to it.
    pub stream: client::TlsStream<IO>,
    /// What is spoken, as asked for or as good.
    pub alpn: Alpn,
    /// The earlier end of both certificates: the connection must not outlive it.
    pub not_after: SystemTime,
    /// Whose certificates both are.
    pub standing: Standing,
}

/// The other end of a handshake, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// Somebody who called us.
    Caller,
    /// Whom we called.
    Server(SpiffeId),
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// We have nothing to show yet, or no longer.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// It took too long.
    #[error("{0} did not finish the TLS handshake within {limit} s; check its load, and network policies on the way", limit = HANDSHAKE_LIMIT.as_secs())]
    Timeout(Side),
    /// We refuse the peer's certificate.
    #[error("certificate of {0} is refused: {1}")]
    Certificate(Side, CertificateFault),
    /// The peer presented none.
    #[error("{0} presented no certificate; it is no mesh peer")]
    NoCertificate(Side),
    /// The peer refuses us.
    #[error("{0} refused the handshake: {words}", words = alert_in_words(*.1))]
    Alert(Side, AlertDescription),
    /// No protocol in common.
    #[error(
        "{0} does not speak the mesh's protocol (ALPN byrnie/1+...); check that both sides' versions of byrnie go together"
    )]
    Alpn(Side),
    /// Not TLS as it should be.
    #[error("{0} broke the TLS protocol: {1}; check that a byrnie proxy listens there")]
    Protocol(Side, rustls::Error),
    /// The connection broke.
    #[error("connection with {0} broke during the TLS handshake: {1}; check that its proxy is running")]
    Io(Side, #[source] io::Error),
}

impl Alpn {
    /// All of them, the preferred first.
    pub const ALL: [Self; 4] = [Self::Http2, Self::Http1, Self::ConfirmedTcp, Self::Tcp];

    /// The name on the wire.
    pub const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Http2 => b"byrnie/1+h2",
            Self::Http1 => b"byrnie/1+http/1.1",
            Self::ConfirmedTcp => b"byrnie/2+tcp",
            Self::Tcp => b"byrnie/1+tcp",
        }
    }

    /// What a caller offers that wants this: also what is as good to it.
    pub(crate) const fn offers(self) -> &'static [Self] {
        match self {
            Self::Http2 => &[Self::Http2],
            Self::Http1 => &[Self::Http1],
            Self::ConfirmedTcp => &[Self::ConfirmedTcp, Self::Tcp],
            Self::Tcp => &[Self::Tcp],
        }
    }

    /// The reverse of [`Self::as_bytes`].
    pub fn from_bytes(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.as_bytes() == name)
    }
}

impl HandshakeError {
    /// A short kebab-case reason, for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotReady(_) => "identity-not-ready",
            Self::Timeout(_) => "handshake-timeout",
            Self::Certificate(_, CertificateFault::OtherPeer { .. }) => "unexpected-peer",
            Self::Certificate(_, CertificateFault::UnknownIssuer) => "unknown-issuer",
            Self::Certificate(_, CertificateFault::Expired | CertificateFault::NotYetValid) => {
                "certificate-not-valid-now"
            }
            Self::Certificate(..) | Self::NoCertificate(_) => "bad-certificate",
            Self::Alert(..) => "refused-by-peer",
            Self::Alpn(_) => "no-common-protocol",
            Self::Protocol(..) => "tls-protocol-error",
            Self::Io(..) => "handshake-broken",
        }
    }

    /// Sorts what rustls says, wrapped in `io::Error` as tokio-rustls hands it out.
    ///
    /// A TLS 1.3 client learns that the server refused its certificate only at its first read: give that error to this
    /// function too.
    pub fn from_io(side: Side, error: io::Error) -> Self {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::Io(side, error);
        };
        match tls {
            rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
            | rustls::Error::NoApplicationProtocol => Self::Alpn(side),
            rustls::Error::AlertReceived(alert) => Self::Alert(side, *alert),
            rustls::Error::NoCertificatesPresented => Self::NoCertificate(side),
            other => match fault_of(other) {
                Some(fault) => Self::Certificate(side, fault),
                None => Self::Protocol(side, other.clone()),
            },
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caller => f.write_str("caller"),
            Self::Server(id) => write!(f, "server {id}"),
        }
    }
}

/// The peer of a finished handshake, and the root it chains to. Its certificate has passed the verifier with these
/// anchors; here it is only read, and verified again where several roots could have vouched for it.
pub(crate) fn peer(
    side: &Side,
    certificates: Option<&[CertificateDer<'_>]>,
    anchors: &Anchors,
    now: UnixTime,
) -> Result<(Claim, RootId), HandshakeError> {
    let (leaf, intermediates) = certificates
        .and_then(<[_]>::split_first)
        .ok_or_else(|| HandshakeError::NoCertificate(side.clone()))?;
    let role = match side {
        Side::Caller => Role::Client,
        Side::Server(_) => Role::Server,
    };
    let read = || {
        let claim = read_leaf(leaf, Some(role))?;
        let root = match anchors.only(claim.id.trust_domain()) {
            Some(only) => only,
            None => verify(leaf, intermediates, anchors, role, now)?.root,
        };
        Ok((claim, root))
    };
    read().map_err(|fault| HandshakeError::Certificate(side.clone(), fault))
}

/// What was negotiated; anything but one of ours ends the connection.
pub(crate) fn alpn(side: &Side, negotiated: Option<&[u8]>) -> Result<Alpn, HandshakeError> {
    negotiated.and_then(Alpn::from_bytes).ok_or_else(|| HandshakeError::Alpn(side.clone()))
}

/// RFC 8446 section 6.2, as far as it happens between mesh peers.
fn alert_in_words(alert: AlertDescription) -> String {
    let words = match alert {
        AlertDescription::UnknownCA => {
            "it does not trust the root of our certificate (unknown_ca); compare both sides' trust bundles"
        }
        AlertDescription::CertificateExpired => {
            "our certificate is not valid at its time (certificate_expired); check our renewal and both clocks"
        }
        AlertDescription::BadCertificate => "it cannot read our certificate (bad_certificate)",
        AlertDescription::UnsupportedCertificate => {
            "our certificate is not for this purpose (unsupported_certificate)"
        }
        AlertDescription::CertificateUnknown => {
            "our certificate breaks one of its rules (certificate_unknown); its log says which"
        }
        AlertDescription::AccessDenied => "it does not want this peer (access_denied)",
        AlertDescription::CertificateRequired => "it wants a certificate and got none (certificate_required)",
        AlertDescription::ProtocolVersion => {
            "it does not speak TLS 1.3 (protocol_version); it is no byrnie proxy"
        }
        AlertDescription::HandshakeFailure => "no cipher suite or group in common (handshake_failure)",
        AlertDescription::UnrecognisedName => {
            "it does not know the server name (unrecognized_name); it is no byrnie proxy"
        }
        AlertDescription::DecryptError => "a signature did not verify (decrypt_error)",
        AlertDescription::InternalError => "an error of its own (internal_error); see its log",
        other => return format!("TLS alert {other:?}"),
    };
    words.to_owned()
}
