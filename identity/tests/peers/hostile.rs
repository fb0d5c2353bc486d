//! Certificates that differ from an accepted one in a single property: none is let in, in either direction.

use byrnie_identity::{Alpn, HandshakeError, Identity, Role};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose as Purpose, IsCa,
    KeyUsagePurpose as Usage, SanType,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    authority::{AWAY, Authority, Chain, Clock, HOME, NOON, at, bundle, id, leaf, peer, uri},
    raw,
};

const NAME: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// Two trust domains, both trusted.
struct World {
    home: Authority,
    away: Authority,
    target: Identity,
}

impl World {
    fn new() -> Self {
        let (home, away) = (Authority::root("home"), Authority::root("away"));
        let roots = bundle(1, &[(HOME, &[&home]), (AWAY, &[&away])]);
        let target = peer(&Clock::new(), &roots, &home.leaf(&id("target")));
        Self { home, away, target }
    }

    /// Shows a chain to the target, as its client or as its server.
    async fn show(&self, role: Role, chain: &Chain) -> Result<(), HandshakeError> {
        let (client, server) = raw::sockets().await;
        let alpn = Alpn::Tcp.as_bytes();
        match role {
            Role::Client => {
                let hostile = TlsConnector::from(raw::client(Some(chain), &[alpn]));
                let (_, accepted) = tokio::join!(
                    hostile.connect(byrnie_identity::server_name(), client),
                    self.target.accept(server)
                );
                assert_eq!(accepted?.peer.as_str(), NAME);
            }
            Role::Server => {
                let hostile = TlsAcceptor::from(raw::server(chain, &[alpn]));
                let expected = NAME.parse().unwrap();
                let (_, connected) =
                    tokio::join!(hostile.accept(server), self.target.connect(client, &expected, Alpn::Tcp));
                connected?;
            }
        }
        Ok(())
    }
}

/// The control, changed.
fn but(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = leaf(NAME);
    change(&mut params);
    params
}

fn names(names: &[SanType]) -> CertificateParams {
    but(|p| p.subject_alt_names = names.to_vec())
}

fn extension(oid: &[u64], critical: bool, content: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content);
    extension.set_criticality(critical);
    extension
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.to_owned().try_into().unwrap())
}

#[tokio::test]
async fn controls_are_let_in() {
    let world = World::new();
    let one = world.home.intermediate("one", |_| ());
    let two = one.intermediate("two", |_| ());
    for role in [Role::Client, Role::Server] {
        world.show(role, &world.home.leaf(&id("web"))).await.unwrap();
        world.show(role, &one.leaf(&id("web"))).await.unwrap();
        world.show(role, &two.leaf(&id("web"))).await.unwrap();
        let purpose = if role == Role::Client { Purpose::ClientAuth } else { Purpose::ServerAuth };
        world.show(role, &world.home.sign(&but(|p| p.extended_key_usages = vec![purpose]))).await.unwrap();
    }
}

#[tokio::test]
async fn no_hostile_certificate_is_let_in() {
    let world = World::new();
    let mut refused = 0;
    for role in [Role::Client, Role::Server] {
        for (what, chain, expected) in hostile(&world, role) {
            match world.show(role, &chain).await {
                Ok(()) => panic!("{what} was let in as {role:?}"),
                Err(HandshakeError::Certificate(_, fault)) => {
                    assert!(format!("{fault:?}").starts_with(expected), "{what} as {role:?}: {fault:?}");
                }
                Err(other) => assert_eq!("Signature", expected, "{what} as {role:?}: {other:?}"),
            }
            refused += 1;
        }
    }
    println!("{refused} refused");
}

/// Every byte counts: whichever is another one, the signature does not fit, or what is signed is none.
#[tokio::test]
async fn no_altered_certificate_is_let_in() {
    let world = World::new();
    let one = world.home.intermediate("one", |_| ()).leaf(&id("web"));
    let mut refused = 0;
    for position in 0..one.certificates.len() {
        let length = one.certificates[position].len();
        for byte in 0..length {
            let mut altered = one.clone();
            let mut der = altered.certificates[position].to_vec();
            der[byte] ^= 1 << (byte % 8);
            altered.certificates[position] = der.into();
            let role = if byte % 2 == 0 { Role::Client } else { Role::Server };
            let shown = world.show(role, &altered).await;
            assert!(shown.is_err(), "byte {byte} of certificate {position} may be another one, as {role:?}");
            refused += 1;
        }
    }
    world.show(Role::Client, &one).await.unwrap();
    world.show(Role::Server, &one).await.unwrap();
    println!("{refused} refused");
    assert!(refused >= 500);
}

/// What it is, the chain, and the start of the fault's name.
fn hostile(world: &World, role: Role) -> Vec<(&'static str, Chain, &'static str)> {
    let (home, away) = (&world.home, &world.away);
    let impostor = Authority::root("home");
    let other_purpose = if role == Role::Client { Purpose::ServerAuth } else { Purpose::ClientAuth };
    let with = |params: CertificateParams| home.sign(&params);
    let named = |name: &str| home.sign(&names(&[uri(name)]));
    let edited = |edit: fn(&mut Chain)| {
        let mut chain = home.intermediate("edited", |_| ()).leaf(&id("web"));
        edit(&mut chain);
        chain
    };
    vec![
        ("expired", with(but(|p| p.not_after = at(NOON - 1).into())), "Expired"),
        ("not yet valid", with(but(|p| p.not_before = at(NOON + 60).into())), "NotYetValid"),
        ("ends before it starts", with(but(|p| p.not_before = at(NOON + 90_000).into())), "Chain"),
        // names
        ("no name", with(names(&[])), "Names { uris: 0, others: 0 }"),
        (
            "two URIs",
            with(names(&[uri(NAME), uri("spiffe://cluster.local/ns/shop/sa/pay")])),
            "Names { uris: 2",
        ),
        ("the same URI twice", with(names(&[uri(NAME), uri(NAME)])), "Names { uris: 2"),
        ("URI and DNS", with(names(&[uri(NAME), dns("web.shop")])), "Names { uris: 1, others: 1 }"),
        ("DNS and URI", with(names(&[dns("web.shop"), uri(NAME)])), "Names"),
        ("URI and IP", with(names(&[uri(NAME), SanType::IpAddress([10, 0, 0, 1].into())])), "Names"),
        (
            "URI and mailbox",
            with(names(&[uri(NAME), SanType::Rfc822Name("a@b.c".to_owned().try_into().unwrap())])),
            "Names",
        ),
        ("DNS alone", with(names(&[dns("web.shop")])), "Names { uris: 0, others: 1 }"),
        ("DNS that looks like an id", with(names(&[dns(NAME)])), "Names"),
        (
            "names twice",
            with(but(|p| p.custom_extensions = vec![extension(&[2, 5, 29, 17], false, vec![0x30, 0])])),
            "Chain(ExtensionValueInvalid)",
        ),
        (
            "an empty list of names",
            with(but(|p| {
                p.subject_alt_names.clear();
                p.custom_extensions = vec![extension(&[2, 5, 29, 17], true, vec![0x30, 0])];
            })),
            "Names { uris: 0",
        ),
        ("upper-case scheme", named("SPIFFE://cluster.local/ns/shop/sa/web"), "Name(Scheme)"),
        ("https", named("https://cluster.local/ns/shop/sa/web"), "Name(Scheme)"),
        ("upper-case trust domain", named("spiffe://Cluster.local/ns/shop/sa/web"), "Name(TrustDomain)"),
        ("port", named("spiffe://cluster.local:1/ns/shop/sa/web"), "Name(TrustDomain)"),
        ("user", named("spiffe://x@cluster.local/ns/shop/sa/web"), "Name(TrustDomain)"),
        ("trailing dot", named("spiffe://cluster.local./ns/shop/sa/web"), "Name(TrustDomain)"),
        ("trailing slash", named("spiffe://cluster.local/ns/shop/sa/web/"), "Name(Path)"),
        ("double slash", named("spiffe://cluster.local//ns/shop/sa/web"), "Name(Path)"),
        ("query", named("spiffe://cluster.local/ns/shop/sa/web?x"), "Name(ServiceAccount)"),
        ("fragment", named("spiffe://cluster.local/ns/shop/sa/web#x"), "Name(ServiceAccount)"),
        ("escape", named("spiffe://cluster.local/ns/sh%6fp/sa/web"), "Name(Namespace)"),
        ("NUL", named("spiffe://cluster.local/ns/shop/sa/web\0"), "Name(ServiceAccount)"),
        ("line break", named("spiffe://cluster.local/ns/shop/sa/web\r\nx: y"), "Name(ServiceAccount)"),
        ("wildcard", named("spiffe://cluster.local/ns/shop/sa/*"), "Name(ServiceAccount)"),
        ("the trust domain's own id", named("spiffe://cluster.local"), "Name(Path)"),
        ("too long", named(&format!("{NAME}{}", "x".repeat(2100))), "Name(TooLong)"),
        // who vouches
        ("our name under the other domain's root", away.leaf(&id("web")), "UnknownIssuer"),
        (
            "the other domain's name under our root",
            named("spiffe://other.example/ns/shop/sa/web"),
            "UnknownIssuer",
        ),
        ("a name in an unknown trust domain", named("spiffe://nowhere/ns/shop/sa/web"), "UnknownIssuer"),
        ("a root of the same name", impostor.leaf(&id("web")), "UnknownIssuer"),
        ("self-signed", self_signed(), "UnknownIssuer"),
        ("a missing intermediate", edited(|c| c.certificates.truncate(1)), "UnknownIssuer"),
        ("nobody's signature", edited(|c| flip(c, 0, -1)), "UnknownIssuer"),
        ("a broken intermediate", edited(|c| flip(c, 1, -1)), "UnknownIssuer"),
        (
            "another's certificate",
            edited(|c| c.key_pem = Authority::root("x").leaf(&id("web")).key_pem),
            "Signature",
        ),
        // what it is for
        ("an authority", with(but(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))), "Authority"),
        ("no purpose", with(but(|p| p.extended_key_usages.clear())), "Purpose"),
        ("the other purpose", with(but(|p| p.extended_key_usages = vec![other_purpose])), "Purpose"),
        ("any purpose", with(but(|p| p.extended_key_usages = vec![Purpose::Any])), "Purpose"),
        ("code signing", with(but(|p| p.extended_key_usages = vec![Purpose::CodeSigning])), "Purpose"),
        ("no usage", with(but(|p| p.key_usages.clear())), "KeyUsage"),
        ("no signatures", with(but(|p| p.key_usages = vec![Usage::KeyAgreement])), "KeyUsage"),
        ("may sign certificates", with(but(|p| p.key_usages.push(Usage::KeyCertSign))), "KeyUsage"),
        ("may sign revocations", with(but(|p| p.key_usages.push(Usage::CrlSign))), "KeyUsage"),
        (
            "an unknown critical extension",
            with(but(|p| p.custom_extensions = vec![extension(&[1, 3, 6, 1, 4, 1, 9], true, vec![5, 0])])),
            "Chain(UnsupportedCriticalExtension)",
        ),
        // the chain
        (
            "three intermediates",
            home.intermediate("1", |_| ())
                .intermediate("2", |_| ())
                .intermediate("3", |_| ())
                .leaf(&id("web")),
            "TooLong",
        ),
        (
            "too many bytes",
            with(but(|p| {
                p.custom_extensions = vec![extension(&[1, 3, 6, 1, 4, 1, 9], false, vec![4; 17_000])];
            })),
            "TooLong",
        ),
        (
            "a workload as intermediate",
            home.intermediate("w", |p| p.is_ca = IsCa::ExplicitNoCa).leaf(&id("web")),
            "Chain(EndEntityUsedAsCa)",
        ),
        (
            "an intermediate that says nothing about CA",
            home.intermediate("n", |p| p.is_ca = IsCa::NoCa).leaf(&id("web")),
            "Chain(EndEntityUsedAsCa)",
        ),
        (
            "an intermediate that may not sign",
            home.intermediate("s", |p| p.key_usages = vec![Usage::DigitalSignature]).leaf(&id("web")),
            "Intermediate",
        ),
        (
            "a path that is too long",
            home.intermediate("p", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))
                .intermediate("q", |_| ())
                .leaf(&id("web")),
            "Chain(PathLenConstraintViolated)",
        ),
        (
            "an expired intermediate",
            home.intermediate("e", |p| p.not_after = at(NOON - 1).into()).leaf(&id("web")),
            "Expired",
        ),
        (
            "an intermediate for other purposes",
            home.intermediate("o", |p| p.extended_key_usages = vec![Purpose::CodeSigning]).leaf(&id("web")),
            "Chain(RequiredEkuNotFound",
        ),
        // bytes
        ("bytes after the leaf", edited(|c| append(c, 0)), "Malformed"),
        ("bytes after an intermediate", edited(|c| append(c, 1)), "Malformed"),
        ("half a leaf", edited(|c| truncate(c, 0)), "Malformed"),
        ("half an intermediate", edited(|c| truncate(c, 1)), "Malformed"),
        ("no certificate at all", edited(|c| c.certificates[0] = vec![1, 2, 3].into()), "Malformed"),
    ]
}

fn self_signed() -> Chain {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = leaf(NAME).self_signed(&key).unwrap().der().clone();
    Chain { certificates: vec![certificate], key_pem: key.serialize_pem() }
}

/// Flips a bit; negative positions count from the end.
fn flip(chain: &mut Chain, certificate: usize, position: isize) {
    let mut bytes = chain.certificates[certificate].to_vec();
    let at = position.rem_euclid(isize::try_from(bytes.len()).unwrap());
    bytes[usize::try_from(at).unwrap()] ^= 1;
    chain.certificates[certificate] = bytes.into();
}

fn append(chain: &mut Chain, certificate: usize) {
    let mut bytes = chain.certificates[certificate].to_vec();
    bytes.push(0);
    chain.certificates[certificate] = bytes.into();
}

fn truncate(chain: &mut Chain, certificate: usize) {
    let bytes = &chain.certificates[certificate];
    chain.certificates[certificate] = bytes[..bytes.len() / 2].to_vec().into();
}

#[tokio::test]
async fn no_flipped_bit_is_let_in() {
    let world = World::new();
    let good = world.home.leaf(&id("web"));
    let length = isize::try_from(good.certificates[0].len()).unwrap();
    for role in [Role::Client, Role::Server] {
        for position in 0..length {
            let mut chain = good.clone();
            flip(&mut chain, 0, position);
            assert!(world.show(role, &chain).await.is_err(), "bit 0 of byte {position} as {role:?}");
        }
    }
    println!("{} refused", 2 * length);
}
