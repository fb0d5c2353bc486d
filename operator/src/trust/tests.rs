//! Trust from nothing to a signed leaf, against an API server in memory that can fail after any write.

mod rotating;
mod server;

use std::time::{Duration, SystemTime};

use byrnie_crds::meshtrust::{Phase, RootState};
use serde_json::{Value, json};

use self::server::{SECRETS, Server, TRUST};
use super::{Authority, current::Stale, root_secret::RootSecrets};

#[tokio::test]
async fn a_first_start_makes_one_root() {
    let server = Server::default();
    server.establish().await.unwrap();
    let trust = server.trust();
    assert_eq!((trust.phase, trust.roots.len(), trust.roots[0].state), (Phase::Stable, 1, RootState::Active));
    assert_eq!((trust.signer, server.secrets().len()), (trust.roots[0].id, 1));
    server.establish().await.unwrap();
    assert_eq!(server.trust(), trust, "once is enough");
    let held = server.current().fresh().await.unwrap();
    assert_eq!((&held.state, held.signer().unwrap().id()), (&trust, trust.signer));
}

#[tokio::test]
async fn a_root_goes_with_the_account_that_made_it() {
    let server = Server::default();
    server.put(
        "/api/v1/namespaces/byrnie-system/serviceaccounts/byrnie-operator",
        json!({"metadata": {"name": "byrnie-operator", "uid": "u1"}}),
    );
    server.establish().await.unwrap();
    let path = format!("{SECRETS}/{}", server.secrets()[0]);
    let secret = server.0.lock().by_path[&path].clone();
    let owner = &secret["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("ServiceAccount"), &json!("u1")));
}

#[tokio::test]
async fn a_process_that_ends_after_any_write_leaves_nothing_behind() {
    for writes in 0..4 {
        let server = Server::default();
        server.ends_after(Some(writes));
        let first = server.establish().await;
        assert_eq!(first.is_ok(), writes == 3, "there are three writes");
        server.ends_after(None);
        server.establish().await.unwrap();
        assert_eq!(server.secrets().len(), 1, "the root of the first attempt is adopted");
        assert_eq!(server.current().fresh().await.unwrap().state, server.trust());
    }
}

#[tokio::test]
async fn of_two_leaders_one_decides() {
    let server = Server::default();
    let (a, b) = tokio::join!(server.establish(), server.establish());
    assert!(a.is_ok() || b.is_ok());
    let trust = server.trust();
    server.establish().await.unwrap();
    assert_eq!(server.trust(), trust);
    assert_eq!(server.current().fresh().await.unwrap().signer().unwrap().id(), trust.signer);
}

#[tokio::test]
async fn a_lost_mesh_trust_comes_back_with_the_same_root_and_a_later_epoch() {
    let server = Server::default();
    server.establish().await.unwrap();
    let before = server.trust();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    server.remove(TRUST);
    server.establish().await.unwrap();
    let after = server.trust();
    assert_eq!((after.signer, &after.roots), (before.signer, &before.roots));
    assert!(after.epoch > before.epoch, "proxies ignore what is not later");
}

#[tokio::test]
async fn a_lost_key_is_followed_by_a_root_that_joins() {
    let server = Server::default();
    server.establish().await.unwrap();
    let before = server.trust();
    server.remove(&format!("{SECRETS}/{}", RootSecrets::name(before.signer)));
    let held = server.current();
    let keyless = held.fresh().await.unwrap();
    assert!(matches!(keyless.signer(), Err(Stale::NoKey(lost)) if lost == before.signer));
    server.establish().await.unwrap();
    let after = server.trust();
    let [old, next] = &after.roots[..] else { panic!("{:?}", after.roots) };
    assert_eq!((old.id, old.state, next.state), (before.signer, RootState::Active, RootState::Staged));
    assert_eq!(
        (after.signer, after.phase),
        (before.signer, Phase::Staged),
        "it signs when all proxies trust it"
    );
    assert!(after.epoch > before.epoch);
    assert_eq!(after.trusted().count(), 2, "nobody stops being trusted");
}

#[tokio::test]
async fn an_old_state_that_comes_back_is_noticed() {
    let server = Server::default();
    server.establish().await.unwrap();
    let current = server.current();
    current.fresh().await.unwrap();
    let mut old = server.0.lock().by_path[TRUST].clone();
    old["status"]["epoch"] = json!(server.trust().epoch - 1);
    server.put(TRUST, old);
    assert!(matches!(current.fresh().await, Err(Stale::Regression { .. })));
}

#[tokio::test]
async fn somebody_elses_authority_signs() {
    let server = Server::default();
    let tls = |authority: &Authority| {
        json!({
            "kind": "Secret", "apiVersion": "v1", "type": "kubernetes.io/tls", "metadata": {"name": "mesh-ca"},
            "stringData": {},
            "data": {
                "tls.crt": byte_string(&super::pem(authority.root())),
                "tls.key": byte_string(&authority.key_pem()),
            },
        })
    };
    let domain = "cluster.local".parse().unwrap();
    let root = || Authority::generate(&domain, Duration::from_hours(720), SystemTime::now()).unwrap();
    let (first, second) = (root(), root());
    let spec = json!({
        "trustDomain": "cluster.local", "leafLifetime": "1h", "rootLifetime": "720h",
        "source": {"secret": {"name": "mesh-ca"}},
    });
    let metadata = json!({"name": "default", "resourceVersion": "1"});
    server.put(
        TRUST,
        json!({"apiVersion": "byrnie.dev/v1alpha1", "kind": "MeshTrust", "metadata": metadata, "spec": spec}),
    );
    assert!(server.establish().await.unwrap_err().contains("mesh-ca"), "it says which Secret is missing");
    server.put(&format!("{SECRETS}/mesh-ca"), tls(&first));
    server.establish().await.unwrap();
    assert_eq!(server.trust().signer, first.id());
    let held = server.current().fresh().await.unwrap();
    assert_eq!((held.signer().unwrap().id(), held.leaf_lifetime), (first.id(), Duration::from_hours(1)));
    server.put(&format!("{SECRETS}/mesh-ca"), tls(&second));
    let refused = server.establish().await.unwrap_err();
    assert!(refused.contains("under another root"), "{refused}");
    assert_eq!(server.trust().signer, first.id());
    assert!(matches!(server.current().fresh().await, Err(Stale::OtherSigner(_))));
}

fn byte_string(text: &str) -> Value {
    json!(k8s_openapi::ByteString(text.as_bytes().to_vec()))
}
