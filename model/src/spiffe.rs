//! SPIFFE ids of Kubernetes workloads: one strict grammar, compared byte by byte.
//!
//! Source: SPIFFE-ID specification sections 2.1-2.4, narrowed to the one path that this mesh issues,
//! `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`. Nothing is normalised: a name that is not already
//! canonical is refused, so that two different spellings can never be the same peer.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest id accepted, in bytes (SPIFFE-ID section 2.4).
pub const MAX_LEN: usize = 2048;

/// A trust domain: `[a-z0-9.-]`, 1..=255 bytes, no empty label and no label that starts or ends with `-`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

/// The identity of a workload. Cloning is a reference count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain_end: u16,
    namespace_end: u16,
}

/// Why a string is no identity.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum SpiffeError {
    /// Longer than [`MAX_LEN`].
    #[error("spiffe id is longer than {MAX_LEN} bytes")]
    TooLong,
    /// The scheme is missing or not in lower case.
    #[error("spiffe id does not start with spiffe://")]
    Scheme,
    /// Not a trust domain.
    #[error("trust domain must be 1 to 255 bytes of a-z, 0-9, '-' and '.', in non-empty labels")]
    TrustDomain,
    /// The path is not `/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
    #[error("spiffe path must be /ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Path,
    /// Not a namespace (DNS-1123 label).
    #[error("namespace must be a DNS label: 1 to 63 bytes of a-z, 0-9 and '-'")]
    Namespace,
    /// Not a service account (DNS-1123 subdomain).
    #[error("service account must be a DNS subdomain: 1 to 253 bytes of a-z, 0-9, '-' and '.'")]
    ServiceAccount,
}

const SCHEME: &str = "spiffe://";

impl TrustDomain {
    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// Builds an id from names that are checked.
    ///
    /// # Errors
    /// [`SpiffeError::Namespace`] or [`SpiffeError::ServiceAccount`] when a part is not a Kubernetes name.
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeError> {
        if !is_dns_label(namespace) {
            return Err(SpiffeError::Namespace);
        }
        if !is_dns_subdomain(service_account, 253) {
            return Err(SpiffeError::ServiceAccount);
        }
        let uri = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        let trust_domain_end = SCHEME.len() + trust_domain.0.len();
        let namespace_end = trust_domain_end + "/ns/".len() + namespace.len();
        Ok(Self {
            uri: uri.into(),
            trust_domain_end: offset(trust_domain_end),
            namespace_end: offset(namespace_end),
        })
    }

    /// The whole id, `spiffe://...`.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain that vouches for this id.
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..usize::from(self.trust_domain_end)]
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.uri[usize::from(self.trust_domain_end) + "/ns/".len()..usize::from(self.namespace_end)]
    }

    /// The Kubernetes ServiceAccount.
    pub fn service_account(&self) -> &str {
        &self.uri[usize::from(self.namespace_end) + "/sa/".len()..]
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;
    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if is_dns_subdomain(text, 255) { Ok(Self(text.into())) } else { Err(SpiffeError::TrustDomain) }
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;
    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MAX_LEN {
            return Err(SpiffeError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(SpiffeError::Path)?;
        let domain = domain.parse()?;
        let mut segments = path.split('/');
        let (Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (segments.next(), segments.next(), segments.next(), segments.next(), segments.next())
        else {
            return Err(SpiffeError::Path);
        };
        Self::new(&domain, namespace, account)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeError;
    fn try_from(text: String) -> Result<Self, SpiffeError> {
        text.parse()
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeError;
    fn try_from(text: String) -> Result<Self, SpiffeError> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.as_str().to_owned()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// A DNS-1123 label: 1..=63 bytes of `[a-z0-9-]` that neither start nor end with `-`.
pub fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

/// A DNS-1123 subdomain of at most `max` bytes: labels as above, joined by dots, without their length limit.
pub fn is_dns_subdomain(text: &str, max: usize) -> bool {
    text.len() <= max
        && text.split('.').all(|label| {
            let bytes = label.as_bytes();
            !bytes.is_empty()
                && bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
                && bytes[0] != b'-'
                && bytes[bytes.len() - 1] != b'-'
        })
}

fn offset(at: usize) -> u16 {
    u16::try_from(at).expect("a trust domain has at most 255 bytes and a namespace 63")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_gives_back_its_parts() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/check.out-1".parse().unwrap();
        assert_eq!(
            (id.trust_domain(), id.namespace(), id.service_account()),
            ("cluster.local", "shop", "check.out-1")
        );
        assert_eq!(id.as_str().parse::<SpiffeId>().unwrap(), id);
    }

    #[test]
    fn everything_that_is_not_canonical_is_refused() {
        for (text, error) in [
            ("", SpiffeError::Scheme),
            ("SPIFFE://td/ns/a/sa/b", SpiffeError::Scheme),
            ("https://td/ns/a/sa/b", SpiffeError::Scheme),
            ("spiffe://td", SpiffeError::Path),
            ("spiffe:///ns/a/sa/b", SpiffeError::TrustDomain),
            ("spiffe://TD/ns/a/sa/b", SpiffeError::TrustDomain),
            ("spiffe://td:1/ns/a/sa/b", SpiffeError::TrustDomain),
            ("spiffe://u@td/ns/a/sa/b", SpiffeError::TrustDomain),
            ("spiffe://td../ns/a/sa/b", SpiffeError::TrustDomain),
            ("spiffe://td/", SpiffeError::Path),
            ("spiffe://td/ns/a/sa/b/", SpiffeError::Path),
            ("spiffe://td//ns/a/sa/b", SpiffeError::Path),
            ("spiffe://td/ns/a/sa", SpiffeError::Path),
            ("spiffe://td/NS/a/sa/b", SpiffeError::Path),
            ("spiffe://td/ns/a.b/sa/b", SpiffeError::Namespace),
            ("spiffe://td/ns//sa/b", SpiffeError::Namespace),
            ("spiffe://td/ns/%61/sa/b", SpiffeError::Namespace),
            ("spiffe://td/ns/../sa/b", SpiffeError::Namespace),
            ("spiffe://td/ns/a/sa/", SpiffeError::ServiceAccount),
            ("spiffe://td/ns/a/sa/b?x=1", SpiffeError::ServiceAccount),
            ("spiffe://td/ns/a/sa/b#x", SpiffeError::ServiceAccount),
            ("spiffe://td/ns/a/sa/b\0", SpiffeError::ServiceAccount),
            ("spiffe://td/ns/a/sa/ü", SpiffeError::ServiceAccount),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(error), "{text}");
        }
        let long = format!("spiffe://td/ns/a/sa/{}", "b".repeat(MAX_LEN));
        assert_eq!(long.parse::<SpiffeId>(), Err(SpiffeError::TooLong));
    }
}
