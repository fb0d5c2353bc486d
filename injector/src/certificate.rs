//! The injector's own serving certificate: made, kept in one Secret, and replaced before it expires.
//!
//! There is no CA to steal: each certificate gets a CA of its own whose key is dropped as soon as it has signed. A new
//! certificate is *staged* first, while the API server is told to trust both CAs, and *served* only after that had time
//! to spread. All replicas share the Secret; a lost race shows as a conflict and is simply read again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, api::PostParams};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use thiserror::Error;

/// Name of the Secret.
pub const SECRET: &str = "byrnie-injector-tls";

const LIFETIME: SignedDuration = SignedDuration::from_hours(90 * 24);
/// A new certificate is staged when this much of the old one's life is left.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How long the API server has to learn of the new CA before its certificate is served.
const SPREAD: SignedDuration = SignedDuration::from_secs(120);
const BACKDATE: SignedDuration = SignedDuration::from_mins(10);
const STAGED_AT: &str = "byrnie.dev/staged-at";
const CALL: Duration = Duration::from_secs(10);

/// What is in the Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What the API server is to trust: the newest CA first, at most two.
    pub ca_bundle: String,
    /// What is served now.
    pub serving: Pair,
    /// What will be served, and since when it waits.
    pub staged: Option<(Pair, Timestamp)>,
}

/// A certificate and its key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Why there is no serving certificate.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The API server.
    #[error("secret {SECRET}: {0}")]
    Api(#[from] kube::Error),
    /// No answer in time.
    #[error("secret {SECRET}: the api server did not answer within {} s", CALL.as_secs())]
    Timeout,
    /// It cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// It cannot be read.
    #[error("secret {SECRET} holds {0}; delete it and a new one is made")]
    Content(String),
}

/// The certificate of the moment, for rustls.
#[derive(Debug, Default)]
pub struct Serving(ArcSwapOption<CertifiedKey>);

/// Keeps the Secret.
///
/// RBAC: secrets create in its own namespace; get, update of this one.
pub struct Keeper {
    api: Api<Secret>,
    names: Vec<String>,
    serving: Arc<Serving>,
}

impl Keeper {
    /// For a Service's DNS names.
    pub fn new(api: Api<Secret>, names: Vec<String>, serving: Arc<Serving>) -> Self {
        Self { api, names, serving }
    }

    /// Brings Secret and served certificate up to date; answers with what is stored now.
    ///
    /// # Errors
    /// [`CertificateError`]; what was served before still is.
    pub async fn keep(&self, now: Timestamp) -> Result<Stored, CertificateError> {
        for _ in 0..5 {
            let current = call(self.api.get_opt(SECRET)).await?;
            // the chart makes it empty, so that it goes with the chart
            let filled = current.as_ref().filter(|secret| secret.data.is_some());
            let stored = filled.map(Stored::read).transpose()?;
            let next = advance(stored.as_ref(), &self.names, now)?;
            let written = match (next, current) {
                (None, _) => None,
                (Some(next), None) => {
                    Some((call(self.api.create(&PostParams::default(), &next.secret(None))).await, next))
                }
                (Some(next), Some(old)) => {
                    let secret = next.secret(Some(&old));
                    Some((call(self.api.replace(SECRET, &PostParams::default(), &secret)).await, next))
                }
            };
            let stored = match written {
                None => stored.ok_or_else(|| CertificateError::Content("nothing".to_owned()))?,
                Some((Ok(_), next)) => next,
                Some((Err(CertificateError::Api(kube::Error::Api(status))), _)) if status.code == 409 => {
                    continue;
                }
                Some((Err(error), _)) => return Err(error),
            };
            self.serving.serve(&stored.serving)?;
            return Ok(stored);
        }
        Err(CertificateError::Content("something that changes all the time".to_owned()))
    }
}

/// What the Secret should hold next; `None` when it is right as it is.
fn advance(
    stored: Option<&Stored>,
    names: &[String],
    now: Timestamp,
) -> Result<Option<Stored>, CertificateError> {
    let fresh = |old: Option<&Stored>| -> Result<_, CertificateError> {
        let (ca, pair) = make(names, now)?;
        let kept = old.and_then(|o| first_certificate(&o.ca_bundle)).unwrap_or_default();
        Ok((format!("{ca}{kept}"), pair))
    };
    let Some(stored) = stored else {
        let (ca_bundle, serving) = fresh(None)?;
        return Ok(Some(Stored { ca_bundle, serving, staged: None }));
    };
    let left = expiry(&stored.serving)?.duration_since(now);
    match &stored.staged {
        Some((pair, since)) if now.duration_since(*since) >= SPREAD || left <= SignedDuration::ZERO => {
            Ok(Some(Stored { serving: pair.clone(), staged: None, ..stored.clone() }))
        }
        None if left <= SignedDuration::ZERO => {
            let (ca_bundle, serving) = fresh(Some(stored))?;
            Ok(Some(Stored { ca_bundle, serving, staged: None }))
        }
        None if left <= RENEW_BEFORE => {
            let (ca_bundle, pair) = fresh(Some(stored))?;
            Ok(Some(Stored { ca_bundle, staged: Some((pair, now)), ..stored.clone() }))
        }
        _ => Ok(None),
    }
}

impl Stored {
    /// When the served certificate expires.
    ///
    /// # Errors
    /// [`CertificateError::Content`] when it cannot be read.
    pub fn expires(&self) -> Result<Timestamp, CertificateError> {
        expiry(&self.serving)
    }

    fn read(secret: &Secret) -> Result<Self, CertificateError> {
        let data = secret.data.clone().unwrap_or_default();
        let text = |key: &str| -> Option<String> { String::from_utf8(data.get(key)?.0.clone()).ok() };
        let need = |key: &str| text(key).ok_or_else(|| CertificateError::Content(format!("no {key}")));
        let serving = Pair { certificate: need("tls.crt")?, key: need("tls.key")? };
        let since =
            secret.metadata.annotations.as_ref().and_then(|a| a.get(STAGED_AT)).and_then(|t| t.parse().ok());
        let staged = match (text("next.crt"), text("next.key"), since) {
            (Some(certificate), Some(key), Some(since)) => Some((Pair { certificate, key }, since)),
            _ => None,
        };
        Ok(Self { ca_bundle: need("ca.crt")?, serving, staged })
    }

    fn secret(&self, old: Option<&Secret>) -> Secret {
        let mut data = BTreeMap::new();
        let mut put =
            |key: &str, text: &str| data.insert(key.to_owned(), ByteString(text.as_bytes().to_vec()));
        put("ca.crt", &self.ca_bundle);
        put("tls.crt", &self.serving.certificate);
        put("tls.key", &self.serving.key);
        let labels = [("app.kubernetes.io/part-of", "byrnie"), ("app.kubernetes.io/component", "injector")];
        let mut secret = old.cloned().unwrap_or_else(|| Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                labels: Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
                ..ObjectMeta::default()
            },
            ..Secret::default()
        });
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.remove(STAGED_AT);
        if let Some((pair, since)) = &self.staged {
            put("next.crt", &pair.certificate);
            put("next.key", &pair.key);
            annotations.insert(STAGED_AT.to_owned(), since.to_string());
        }
        secret.data = Some(data);
        secret
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Serving {
    fn serve(&self, pair: &Pair) -> Result<(), CertificateError> {
        let content = |what: &str| CertificateError::Content(what.to_owned());
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pair.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| content("a tls.crt that is no PEM certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())
            .map_err(|_| content("a tls.key that is no PEM key"))?;
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|_| content("a key of an unknown kind"))?;
        if self.0.load().as_ref().is_none_or(|served| served.cert != chain) {
            self.0.store(Some(Arc::new(CertifiedKey::new(chain, key))));
        }
        Ok(())
    }

    /// Whether there is a certificate yet.
    pub fn is_ready(&self) -> bool {
        self.0.load().is_some()
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// A CA of its own and a certificate under it. The CA's key ends here.
fn make(names: &[String], now: Timestamp) -> Result<(String, Pair), CertificateError> {
    let at = |moment: Timestamp| time::OffsetDateTime::from_unix_timestamp(moment.as_second());
    let (from, until) = (now - BACKDATE, now + LIFETIME);
    let mut params = CertificateParams::new(names.to_vec())?;
    params.not_before = at(from).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    params.not_after = at(until).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let mut ca = CertificateParams::default();
    (ca.not_before, ca.not_after) = (params.not_before, params.not_after);
    ca.distinguished_name.push(DnType::CommonName, format!("byrnie-injector {}", now.as_second()));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((issuer.pem(), Pair { certificate: certificate.pem(), key: key.serialize_pem() }))
}

fn expiry(pair: &Pair) -> Result<Timestamp, CertificateError> {
    let content = || CertificateError::Content("a tls.crt that is no certificate".to_owned());
    let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).map_err(|_| content())?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|_| content())?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).map_err(|_| content())
}

fn first_certificate(bundle: &str) -> Option<String> {
    const END: &str = "-----END CERTIFICATE-----\n";
    bundle
        .replace("\r\n", "\n")
        .split_inclusive(END)
        .next()
        .filter(|text| text.ends_with(END))
        .map(str::to_owned)
}

async fn call<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CertificateError> {
    tokio::time::timeout(CALL, request).await.map_err(|_| CertificateError::Timeout)?.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["byrnie-injector.byrnie-system.svc".to_owned()]
    }

    fn certificates(bundle: &str) -> usize {
        bundle.matches("BEGIN CERTIFICATE").count()
    }

    #[test]
    fn a_certificate_is_staged_trusted_and_then_served() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let first = advance(None, &names(), start).unwrap().unwrap();
        assert_eq!((certificates(&first.ca_bundle), &first.staged), (1, &None));
        assert_eq!(advance(Some(&first), &names(), start).unwrap(), None);

        let due = start + LIFETIME - RENEW_BEFORE;
        let staged = advance(Some(&first), &names(), due).unwrap().unwrap();
        assert_eq!(staged.serving, first.serving);
        assert_eq!(certificates(&staged.ca_bundle), 2);
        assert!(staged.ca_bundle.ends_with(&first.ca_bundle));
        assert_eq!(
            advance(Some(&staged), &names(), due + SPREAD - SignedDuration::from_secs(1)).unwrap(),
            None
        );

        let served = advance(Some(&staged), &names(), due + SPREAD).unwrap().unwrap();
        assert_eq!((Some(served.serving.clone()), &served.staged), (staged.staged.map(|(p, _)| p), &None));
        assert_eq!(served.ca_bundle, staged.ca_bundle);
        let later = advance(Some(&served), &names(), due + LIFETIME - RENEW_BEFORE).unwrap().unwrap();
        assert_eq!(certificates(&later.ca_bundle), 2);
    }

    #[test]
    fn an_expired_certificate_is_replaced_at_once() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let first = advance(None, &names(), start).unwrap().unwrap();
        let next = advance(Some(&first), &names(), start + LIFETIME).unwrap().unwrap();
        assert!(next.serving != first.serving && next.staged.is_none());
    }

    #[test]
    fn the_secret_gives_back_what_was_stored_and_shows_no_key() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let first = advance(None, &names(), start).unwrap().unwrap();
        let staged = advance(Some(&first), &names(), start + LIFETIME - RENEW_BEFORE).unwrap().unwrap();
        assert_eq!(Stored::read(&staged.secret(None)).unwrap(), staged);
        assert!(!format!("{staged:?}").contains("PRIVATE"));
        let serving = Serving::default();
        serving.serve(&staged.serving).unwrap();
        assert!(serving.is_ready());
    }

    #[test]
    fn garbage_in_the_secret_says_what_to_do() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut stored = advance(None, &names(), start).unwrap().unwrap();
        stored.serving.certificate = "nonsense".to_owned();
        let error = advance(Some(&stored), &names(), start).unwrap_err().to_string();
        assert!(error.contains("delete it"), "{error}");
        assert!(Stored::read(&Secret::default()).is_err());
    }
}
