//! What kubelets are answered: names and times of a certificate, what is denied for ever, what is tried again.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::certificates::v1::PodCertificateRequestSpec};
use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;
use crate::issuance::tests::{a_pod as pod, trusted};

fn request(algorithm: &'static SignatureAlgorithm) -> PodCertificateRequest {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let stub = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let mut request = PodCertificateRequest {
        spec: PodCertificateRequestSpec {
            signer_name: names::SIGNER.into(),
            pod_name: "web-1".into(),
            pod_uid: "uid-1".into(),
            service_account_name: "web".into(),
            node_name: "node-1".into(),
            max_expiration_seconds: Some(86_400),
            stub_pkc_s10_request: ByteString(stub),
            ..PodCertificateRequestSpec::default()
        },
        ..PodCertificateRequest::default()
    };
    request.metadata.namespace = Some("shop".into());
    request
}

fn good() -> PodCertificateRequest {
    request(&rcgen::PKCS_ECDSA_P256_SHA256)
}

fn answer(request: &PodCertificateRequest, pod: Option<&Pod>, leaf: Duration) -> Result<Issued, Refusal> {
    let trusted = Trusted { leaf_lifetime: leaf, ..trusted() };
    let decided = decide(request, &claim(request), pod, &trusted, SystemTime::now());
    decided.map(|(id, issued)| {
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
        issued
    })
}

const DAY: Duration = Duration::from_hours(24);

#[test]
fn a_pod_of_the_mesh_gets_its_name_within_kubernetes_limits() {
    for (leaf, longest) in [(DAY, 86_400), (DAY * 7, 7 * 86_400), (DAY * 7, 3600), (SHORTEST, 86_400)] {
        let mut request = good();
        request.spec.max_expiration_seconds = Some(longest);
        let now = SystemTime::now();
        let issued = answer(&request, Some(&pod()), leaf).unwrap();
        let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(*names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]);
        let status = issued_status(&issued, now);
        let seconds = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
            time.as_ref().unwrap().0.as_second()
        };
        let validity = certificate.validity();
        let (from, until) = (seconds(&status.not_before), seconds(&status.not_after));
        assert_eq!((from, until), (validity.not_before.timestamp(), validity.not_after.timestamp()));
        assert!((3600..=i64::from(longest)).contains(&(until - from)), "{from} {until}");
        let now = i64::try_from(now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()).unwrap();
        assert!((now - 300..=now).contains(&from));
        let refresh = seconds(&status.begin_refresh_at);
        assert!((from + 600..=until - 600).contains(&refresh), "{from} {refresh} {until}");
        assert!(
            refresh <= now + (until - now) * 45 / 100,
            "the kubelet is to be first: {now} {refresh} {until}"
        );
        assert!(!is_open(&PodCertificateRequest { status: Some(status), ..request }));
    }
}

#[test]
fn what_will_never_be_right_is_denied() {
    let with_pod = |change: fn(&mut Pod)| {
        let mut pod = pod();
        change(&mut pod);
        answer(&good(), Some(&pod), DAY)
    };
    let with = |change: fn(&mut PodCertificateRequest)| {
        let mut request = good();
        change(&mut request);
        answer(&request, Some(&pod()), DAY)
    };
    let cases = [
        ("NotInMesh", with_pod(|pod| pod.identity = None)),
        ("NotInMesh", with_pod(|pod| pod.live = false)),
        ("NotInMesh", with_pod(|pod| pod.node = "node-2".into())),
        ("NotInMesh", with(|request| request.spec.service_account_name = "admin".into())),
        (
            "InvalidUnverifiedUserAnnotations",
            with(|request| {
                request.spec.unverified_user_annotations = Some(BTreeMap::from([("a/b".into(), "c".into())]));
            }),
        ),
        ("UnsupportedKeyType", answer(&request(&rcgen::PKCS_ED25519), Some(&pod()), DAY)),
        ("BadRequest", with(|request| request.spec.stub_pkc_s10_request.0.truncate(20))),
        ("LifetimeTooShort", answer(&good(), Some(&pod()), SHORTEST / 2)),
        ("LifetimeTooShort", with(|request| request.spec.max_expiration_seconds = Some(3599))),
        ("LifetimeTooShort", with(|request| request.spec.max_expiration_seconds = Some(-1))),
    ];
    for (index, (expected, answer)) in cases.into_iter().enumerate() {
        assert!(
            matches!(&answer, Err(Refusal::Final { reason, .. }) if *reason == expected),
            "{index}: {answer:?}"
        );
    }
}

#[test]
fn what_may_become_right_is_tried_again() {
    let mut another = pod();
    another.uid = "uid-0".into();
    let mut unbound = pod();
    unbound.node = String::new();
    for pod in [None, Some(&another), Some(&unbound)] {
        assert!(matches!(answer(&good(), pod, DAY), Err(Refusal::Later(_))));
    }
    let keyless = Trusted { authority: None, ..trusted() };
    let decided = decide(&good(), &claim(&good()), Some(&pod()), &keyless, SystemTime::now());
    assert!(matches!(decided, Err(Refusal::Later(_))), "{decided:?}");
}
