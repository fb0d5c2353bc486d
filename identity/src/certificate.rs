//! What a certificate says about itself: the few X.509 fields that the peer rules need and webpki does not show.
//!
//! Reads RFC 5280 section 4.1 and 4.2 strictly and judges nothing; [`crate::verify`] does. Signatures, names of
//! issuers, critical extensions and duplicates are webpki's, which reads every certificate first.

use std::time::{Duration, SystemTime};

use crate::der::{
    self, BIT_STRING, GENERALIZED_TIME, INTEGER, Malformed, OCTET_STRING, OID, Reader, SEQUENCE, UTC_TIME,
};

/// One certificate, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Certificate<'a> {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) names: Names<'a>,
    pub(crate) is_ca: bool,
    /// `None` without a keyUsage extension.
    pub(crate) usage: Option<KeyUsage>,
    pub(crate) server_auth: bool,
    pub(crate) client_auth: bool,
}

/// The subject alternative names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Names<'a> {
    /// The first URI.
    pub(crate) uri: Option<&'a str>,
    pub(crate) uris: usize,
    /// DNS names, addresses, mailboxes and the rest.
    pub(crate) others: usize,
}

/// The bits of keyUsage that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyUsage {
    pub(crate) digital_signature: bool,
    pub(crate) key_cert_sign: bool,
    pub(crate) crl_sign: bool,
}

/// 2.5.29, the arc of the extensions below.
const EXTENSION: &[u8] = &[0x55, 0x1d];
const KEY_USAGE: u8 = 15;
const SUBJECT_ALT_NAME: u8 = 17;
const BASIC_CONSTRAINTS: u8 = 19;
const EXTENDED_KEY_USAGE: u8 = 37;
/// 1.3.6.1.5.5.7.3, the arc of the purposes below.
const PURPOSE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3];
const SERVER_AUTH: u8 = 1;
const CLIENT_AUTH: u8 = 2;
/// GeneralName's uniformResourceIdentifier.
const URI: u8 = der::implicit(6);

impl<'a> Certificate<'a> {
    /// Reads one certificate that is nothing but that.
    pub(crate) fn read(certificate: &'a [u8]) -> Result<Self, Malformed> {
        let mut outer = Reader::new(certificate);
        let mut signed = outer.nested(SEQUENCE)?;
        outer.end()?;
        let mut tbs = signed.nested(SEQUENCE)?;
        signed.expect(SEQUENCE)?; // signatureAlgorithm
        signed.expect(BIT_STRING)?; // signatureValue
        signed.end()?;

        tbs.expect(der::explicit(0))?; // version
        tbs.expect(INTEGER)?; // serialNumber
        tbs.expect(SEQUENCE)?; // signature
        tbs.expect(SEQUENCE)?; // issuer
        let mut validity = tbs.nested(SEQUENCE)?;
        let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
        validity.end()?;
        tbs.expect(SEQUENCE)?; // subject
        tbs.expect(SEQUENCE)?; // subjectPublicKeyInfo

        let mut read = Self {
            not_before,
            not_after,
            names: Names::default(),
            is_ca: false,
            usage: None,
            server_auth: false,
            client_auth: false,
        };
        if let Some(extensions) = tbs.optional(der::explicit(3))? {
            let mut wrapper = Reader::new(extensions);
            let mut extensions = wrapper.nested(SEQUENCE)?;
            wrapper.end()?;
            while !extensions.at_end() {
                read.extension(extensions.nested(SEQUENCE)?)?;
            }
        }
        tbs.end()?;
        Ok(read)
    }

    fn extension(&mut self, mut extension: Reader<'a>) -> Result<(), Malformed> {
        let oid = extension.expect(OID)?;
        extension.boolean_or_false()?; // critical
        let mut value = Reader::new(extension.expect(OCTET_STRING)?);
        extension.end()?;
        match oid.strip_prefix(EXTENSION) {
            Some([KEY_USAGE]) => self.usage = Some(key_usage(value.expect(BIT_STRING)?)?),
            Some([SUBJECT_ALT_NAME]) => self.names = names(value.nested(SEQUENCE)?)?,
            Some([BASIC_CONSTRAINTS]) => {
                let mut constraints = value.nested(SEQUENCE)?;
                self.is_ca = constraints.boolean_or_false()?;
                constraints.optional(INTEGER)?; // pathLenConstraint
                constraints.end()?;
            }
            Some([EXTENDED_KEY_USAGE]) => {
                let mut purposes = value.nested(SEQUENCE)?;
                while !purposes.at_end() {
                    match purposes.expect(OID)?.strip_prefix(PURPOSE) {
                        Some([SERVER_AUTH]) => self.server_auth = true,
                        Some([CLIENT_AUTH]) => self.client_auth = true,
                        _ => {}
                    }
                }
            }
            _ => return Ok(()),
        }
        value.end()
    }
}

fn names(mut list: Reader<'_>) -> Result<Names<'_>, Malformed> {
    let mut names = Names::default();
    while !list.at_end() {
        match list.any()? {
            (URI, value) => {
                let uri = std::str::from_utf8(value).map_err(|_| Malformed)?;
                names.uri.get_or_insert(uri);
                names.uris += 1;
            }
            _ => names.others += 1,
        }
    }
    Ok(names)
}

/// A BIT STRING starts with the number of bits that its last byte does not use.
fn key_usage(bits: &[u8]) -> Result<KeyUsage, Malformed> {
    let [0..=7, first, rest @ ..] = bits else { return Err(Malformed) };
    if rest.len() > 1 {
        return Err(Malformed);
    }
    Ok(KeyUsage {
        digital_signature: first & 0x80 != 0,
        key_cert_sign: first & 0x04 != 0,
        crl_sign: first & 0x02 != 0,
    })
}

/// `YYMMDDhhmmssZ` until 2049 or `YYYYMMDDhhmmssZ` (RFC 5280 section 4.1.2.5), from 1970 on.
fn time(reader: &mut Reader<'_>) -> Result<SystemTime, Malformed> {
    let (tag, text) = reader.any()?;
    let text = text.strip_suffix(b"Z").ok_or(Malformed)?;
    let (year, rest) = text.split_at_checked(text.len().saturating_sub(10)).ok_or(Malformed)?;
    let year = match (tag, year.len(), digits(year)?) {
        (UTC_TIME, 2, year @ 0..=49) => 2000 + year,
        (UTC_TIME, 2, year) => 1900 + year,
        (GENERALIZED_TIME, 4, year) => year,
        _ => return Err(Malformed),
    };
    let ([month, day, hour, minute, second], []) = rest.as_chunks::<2>() else { return Err(Malformed) };
    let (month, day, hour) = (digits(month)?, digits(day)?, digits(hour)?);
    let (minute, second) = (digits(minute)?, digits(second)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = if leap { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month).ok().and_then(|m| m.checked_sub(1)).ok_or(Malformed)?;
    let length = *months.get(month).ok_or(Malformed)?;
    if year < 1970 || !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return Err(Malformed);
    }
    let before = year - 1;
    let leap_days = (before / 4 - before / 100 + before / 400) - 477; // 477 of them before 1970
    let days = (year - 1970) * 365 + leap_days + months[..month].iter().sum::<u64>() + day - 1;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn digits(text: &[u8]) -> Result<u64, Malformed> {
    text.iter().try_fold(0, |sum, digit| match digit {
        b'0'..=b'9' => Ok(sum * 10 + u64::from(digit - b'0')),
        _ => Err(Malformed),
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::subsequence};
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
    };
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

    use super::*;

    fn signed(params: &CertificateParams) -> Vec<u8> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn uri(name: &str) -> SanType {
        SanType::URI(name.to_owned().try_into().unwrap())
    }

    /// Seconds since 1970, until 2400: both ways to write a time, and 29 February in and out of century years.
    fn instants() -> impl Strategy<Value = u64> {
        prop_oneof![0..13_569_465_600_u64, Just(951_782_400), Just(4_107_456_000), Just(2_524_607_999)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn what_was_put_in_is_read(
            not_before in instants(),
            not_after in instants(),
            uris in 0..3_usize,
            others in 0..3_usize,
            ca in any::<bool>(),
            usages in subsequence(
                vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign], 0..=3),
            purposes in subsequence(
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth], 0..=2),
        ) {
            let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let mut params = CertificateParams::default();
            (params.not_before, params.not_after) = (at(not_before).into(), at(not_after).into());
            params.subject_alt_names = (0..uris).map(|n| uri(&format!("spiffe://{n}"))).collect();
            params.subject_alt_names.extend((0..others).map(|n| {
                SanType::DnsName(format!("n{n}").try_into().unwrap())
            }));
            params.is_ca = if ca { IsCa::Ca(BasicConstraints::Constrained(3)) } else { IsCa::ExplicitNoCa };
            (params.key_usages, params.extended_key_usages) = (usages.clone(), purposes.clone());

            let bytes = signed(&params);
            let read = Certificate::read(&bytes).unwrap();
            prop_assert_eq!((read.not_before, read.not_after), (at(not_before), at(not_after)));
            prop_assert_eq!(read.names, Names { uri: (uris > 0).then_some("spiffe://0"), uris, others });
            prop_assert_eq!(read.is_ca, ca);
            prop_assert_eq!(read.usage, (!usages.is_empty()).then(|| KeyUsage {
                digital_signature: usages.contains(&KeyUsagePurpose::DigitalSignature),
                key_cert_sign: usages.contains(&KeyUsagePurpose::KeyCertSign),
                crl_sign: usages.contains(&KeyUsagePurpose::CrlSign),
            }));
            prop_assert_eq!(read.server_auth, purposes.contains(&ExtendedKeyUsagePurpose::ServerAuth));
            prop_assert_eq!(read.client_auth, purposes.contains(&ExtendedKeyUsagePurpose::ClientAuth));
        }
    }

    /// Whatever is changed in a certificate: what webpki and this reader both take, another parser reads the same.
    #[test]
    fn damaged_certificates_are_read_as_others_read_them() {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/web")];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let good = signed(&params);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(20_000));
        let mut agreed = 0;
        let both = std::cell::RefCell::new(&mut agreed);
        let damage = vec((0..good.len(), any::<u8>()), 1..3);
        runner
            .run(&damage, |damage| {
                let mut bytes = good.clone();
                for (at, byte) in damage {
                    bytes[at] = byte;
                }
                let Ok(ours) = Certificate::read(&bytes) else { return Ok(()) };
                if webpki::EndEntityCert::try_from(&bytes.as_slice().into()).is_err() {
                    return Ok(());
                }
                let Ok((_, theirs)) = X509Certificate::from_der(&bytes) else { return Ok(()) };
                **both.borrow_mut() += 1;
                let seconds =
                    |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
                let validity = theirs.validity();
                prop_assert_eq!(
                    i64::try_from(seconds(ours.not_before)).unwrap(),
                    validity.not_before.timestamp()
                );
                prop_assert_eq!(
                    i64::try_from(seconds(ours.not_after)).unwrap(),
                    validity.not_after.timestamp()
                );
                if let Ok(names) = theirs.subject_alternative_name() {
                    let names = names.map_or(&[][..], |n| &n.value.general_names);
                    // A URI whose tag says "constructed" is none for us.
                    prop_assert_eq!(ours.names.uris + ours.names.others, names.len());
                    if ours.names.uris == 1 && ours.names.others == 0 {
                        let uri = ours.names.uri.map(GeneralName::URI);
                        prop_assert_eq!(names.first(), uri.as_ref());
                    }
                }
                if let Ok(constraints) = theirs.basic_constraints() {
                    prop_assert_eq!(ours.is_ca, constraints.is_some_and(|c| c.value.ca));
                }
                if let Ok(usage) = theirs.key_usage() {
                    prop_assert_eq!(
                        ours.usage.map(|u| u.key_cert_sign),
                        usage.as_ref().map(|u| u.value.key_cert_sign())
                    );
                }
                if let Ok(purposes) = theirs.extended_key_usage() {
                    prop_assert_eq!(ours.client_auth, purposes.is_some_and(|p| p.value.client_auth));
                }
                Ok(())
            })
            .unwrap();
        assert!(agreed > 1000, "only {agreed} damaged certificates were read by all");
    }

    #[test]
    fn every_prefix_is_malformed() {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/web")];
        let good = signed(&params);
        for length in 0..good.len() {
            assert_eq!(Certificate::read(&good[..length]), Err(Malformed), "{length}");
        }
    }

    #[test]
    fn times_have_one_spelling() {
        let read = |tag, text: &str| {
            let bytes = [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            time(&mut Reader::new(&bytes))
                .ok()
                .map(|t| t.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
        };
        assert_eq!(read(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(read(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(read(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        assert_eq!(read(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        for text in
            ["", "Z", "0101000000Z", "7001010000Z", "700101000000", "700101000000+0000", "7001010000 0Z"]
        {
            assert_eq!(read(UTC_TIME, text), None, "{text}");
        }
        for text in ["690101000000Z", "700001000000Z", "701301000000Z", "700100000000Z", "700132000000Z"] {
            assert_eq!(read(UTC_TIME, text), None, "{text}");
        }
        for text in ["700229000000Z", "700101240000Z", "700101006000Z", "700101000060Z"] {
            assert_eq!(read(UTC_TIME, text), None, "{text}");
        }
        assert_eq!(read(GENERALIZED_TIME, "21000229000000Z"), None);
        assert_eq!(read(GENERALIZED_TIME, "19691231235959Z"), None);
        assert_eq!(read(GENERALIZED_TIME, "20500101000000.5Z"), None);
    }
}
