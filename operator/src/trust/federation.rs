//! Roots of other trust domains, as MeshTrust lists them. They are read one by one: a domain whose roots cannot be used is
//! left out, so nobody of it is believed, and disturbs no other.
//!
//! Only proxies are told of them. The operator's own connections trust the mesh's own roots alone.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use byrnie_api::v1;
use byrnie_identity::TrustBundle;
use byrnie_model::TrustDomain;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A domain has few roots, also while it rotates.
const MAX_ROOTS: usize = 16;

/// What is believed of other trust domains, and why some are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Federation {
    /// Their usable roots.
    pub domains: BTreeMap<TrustDomain, Roots>,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
}

/// A trust domain's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// In DER.
    pub certificates: Vec<Vec<u8>>,
    /// When the last of them ends.
    pub until: SystemTime,
}

impl Federation {
    /// Reads each domain's PEM.
    pub fn read(listed: &BTreeMap<TrustDomain, String>, now: SystemTime) -> Self {
        let mut this = Self::default();
        for (domain, pem) in listed {
            match roots(domain, pem, now, &mut this.problems) {
                Ok(roots) => {
                    this.domains.insert(domain.clone(), roots);
                }
                Err(problem) => this.problems.push(format!("{domain}: {problem}")),
            }
        }
        this
    }

    /// As proxies are told.
    pub fn message(&self) -> Vec<v1::Roots> {
        let told = |(domain, roots): (&TrustDomain, &Roots)| v1::Roots {
            trust_domain: domain.to_string(),
            certificates: roots.certificates.clone(),
        };
        self.domains.iter().map(told).collect()
    }
}

fn roots(
    domain: &TrustDomain,
    pem: &str,
    now: SystemTime,
    problems: &mut Vec<String>,
) -> Result<Roots, String> {
    let bundle = TrustBundle::from_pem(domain, pem.as_bytes()).map_err(|error| error.to_string())?;
    let all: Vec<CertificateDer<'static>> = bundle.roots.into_values().flatten().collect();
    if all.len() > MAX_ROOTS {
        return Err(format!("{} roots are listed, and {MAX_ROOTS} are the most", all.len()));
    }
    let mut usable = Roots { certificates: Vec::new(), until: SystemTime::UNIX_EPOCH };
    for (index, der) in all.iter().enumerate() {
        match until(der) {
            Ok(until) if until <= now => {
                problems.push(format!("{domain}: root {index} has expired and is left out"));
            }
            Ok(until) => {
                usable.certificates.push(der.to_vec());
                usable.until = usable.until.max(until);
            }
            Err(problem) => problems.push(format!("{domain}: root {index} {problem} and is left out")),
        }
    }
    if usable.certificates.is_empty() { Err("no root is left".to_owned()) } else { Ok(usable) }
}

/// When a root ends.
fn until(der: &CertificateDer<'_>) -> Result<SystemTime, &'static str> {
    let (_, root) = X509Certificate::from_der(der).map_err(|_| "is not an X.509 certificate")?;
    if !root.is_ca() {
        return Err("is not a CA (basicConstraints)");
    }
    if root.key_usage().is_ok_and(|usage| usage.is_some_and(|usage| !usage.value.key_cert_sign())) {
        return Err("may not sign certificates (keyUsage)");
    }
    let seconds = u64::try_from(root.validity().not_after.timestamp()).map_err(|_| "has expired long ago")?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use time::OffsetDateTime;

    use super::*;

    fn certificate(is_ca: bool, days: i64) -> String {
        let mut params = CertificateParams::default();
        params.is_ca = if is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        params.not_before = OffsetDateTime::now_utc() - time::Duration::days(400);
        params.not_after = OffsetDateTime::now_utc() + time::Duration::days(days);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn what_cannot_be_used_is_left_out_and_said() {
        let (good, other) = (certificate(true, 30), certificate(true, 60));
        let listed: BTreeMap<TrustDomain, String> = [
            ("two.org", format!("{good}{other}")),
            ("half.org", format!("{}{other}", certificate(true, -1))),
            ("leaf.org", certificate(false, 30)),
            ("text.org", "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n".to_owned()),
            ("expired.org", certificate(true, -1)),
            ("many.org", good.repeat(17)),
        ]
        .map(|(domain, pem)| (domain.parse().unwrap(), pem))
        .into();
        let federation = Federation::read(&listed, SystemTime::now());
        let counts: Vec<_> =
            federation.domains.iter().map(|(d, roots)| (d.as_str(), roots.certificates.len())).collect();
        assert_eq!(counts, [("half.org", 1), ("two.org", 2)]);
        let said = federation.problems.join("\n");
        for words in [
            "expired.org: root 0 has expired",
            "expired.org: no root is left",
            "half.org: root 0 has expired and is left out",
            "leaf.org: root 0 is not a CA",
            "many.org: 17 roots",
            "text.org: ",
        ] {
            assert!(said.contains(words), "{words:?} is not in\n{said}");
        }
        assert_eq!(federation.message().len(), 2);
    }
}
