//! Trust from nothing to a signed leaf, against an API server in memory that can fail after any write.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use byrnie_crds::{
    MeshTrust,
    meshtrust::{Phase, RootState},
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    Authority, TrustState,
    current::{Current, Stale},
    establish::Establish,
    root_secret::RootSecrets,
    rotation::census::{Census, Holds, Proxy},
};
use crate::{lease::Fence, metrics::Metrics};

const TRUST: &str = "/apis/byrnie.dev/v1alpha1/meshtrusts/default";
const SECRETS: &str = "/api/v1/namespaces/byrnie-system/secrets";

/// Objects by path; every write gets a new resourceVersion, and one with an old one is refused.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Objects>>);

#[derive(Default)]
struct Objects {
    by_path: BTreeMap<String, Value>,
    version: u64,
    /// After so many writes the process that writes is thought to have ended.
    writes_left: Option<u32>,
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().trim_end_matches("/status").to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        let object = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (status, answer) = self.0.lock().handle(&parts.method, &path, object);
        Response::builder().status(status).body(Body::from(answer.to_string().into_bytes())).unwrap()
    }

    fn ends_after(&self, writes: Option<u32>) {
        self.0.lock().writes_left = writes;
    }

    fn trust(&self) -> TrustState {
        let object: MeshTrust = serde_json::from_value(self.0.lock().by_path[TRUST].clone()).unwrap();
        TrustState::read(&object, "cluster.local".parse().unwrap()).unwrap().unwrap()
    }

    fn secrets(&self) -> Vec<String> {
        let names = self.0.lock().by_path.keys().cloned().collect::<Vec<_>>();
        names
            .iter()
            .filter_map(|path| path.strip_prefix(SECRETS)?.strip_prefix('/').map(Into::into))
            .collect()
    }

    fn remove(&self, path: &str) {
        self.0.lock().by_path.remove(path);
    }

    fn put(&self, path: &str, object: Value) {
        self.0.lock().by_path.insert(path.into(), object);
    }

    async fn establish(&self) -> Result<(), String> {
        let (client, metrics) = (self.client(), Metrics::default());
        let secrets = RootSecrets::new(client.clone(), "byrnie-system", "byrnie-operator");
        let domain = "cluster.local".parse().unwrap();
        let server = self.clone();
        let census = Box::new(move || Census { complete: true, proxies: server.obedient() });
        let (_, trust) = watch::channel(None);
        Establish::new(
            client,
            secrets,
            domain,
            census,
            trust,
            Fence::open_for(Duration::from_hours(1)),
            metrics,
        )
        .once()
        .await
        .map_err(|e| e.to_string())
    }

    /// Two proxies that have done already what MeshTrust says.
    fn obedient(&self) -> Vec<Proxy> {
        if self.0.lock().by_path.get(TRUST).is_none_or(|object| object.get("status").is_none()) {
            return Vec::new();
        }
        let TrustState { epoch, signer, roots, .. } = self.trust();
        let trusted = roots.iter().filter(|root| root.state != RootState::Tainted);
        let trusts = trusted.map(|root| root.id).collect();
        let holds = Some(Holds { epoch, trusts, issuer: Some(signer), stands_on: [signer].into() });
        ["shop/web", "shop/pay"]
            .map(|name| Proxy { name: name.into(), connected: true, silent: false, holds: holds.clone() })
            .into()
    }

    /// The phase has lasted two minutes longer.
    fn age(&self) {
        let since = self.trust().since - Duration::from_mins(2);
        let mut objects = self.0.lock();
        objects.by_path.get_mut(TRUST).unwrap()["status"]["phaseSince"] = json!(super::time(since));
    }

    fn ask(&self, rotation: Value) {
        self.0.lock().by_path.get_mut(TRUST).unwrap()["spec"]["rotation"] = rotation;
    }

    fn current(&self) -> Current {
        let secrets = RootSecrets::new(self.client(), "byrnie-system", "byrnie-operator");
        Current::new(self.client(), secrets, "cluster.local".parse().unwrap(), Metrics::default())
    }
}

fn reason(code: StatusCode) -> &'static str {
    if code == StatusCode::NOT_FOUND { "NotFound" } else { "x" }
}

impl Objects {
    fn handle(&mut self, method: &Method, path: &str, mut object: Value) -> (StatusCode, Value) {
        let failure = |code: StatusCode| {
            (
                code,
                json!({"kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason(code), "message": "x"}),
            )
        };
        if *method == Method::GET {
            if path.ends_with("/secrets") {
                let secrets: Vec<&Value> = self
                    .by_path
                    .iter()
                    .filter(|(p, _)| p.starts_with(path))
                    .map(|(_, object)| object)
                    .collect();
                return (
                    StatusCode::OK,
                    json!({"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": secrets}),
                );
            }
            return self
                .by_path
                .get(path)
                .map_or_else(|| failure(StatusCode::NOT_FOUND), |o| (StatusCode::OK, o.clone()));
        }
        if let Some(left) = &mut self.writes_left {
            if *left == 0 {
                return failure(StatusCode::SERVICE_UNAVAILABLE);
            }
            *left -= 1;
        }
        if *method == Method::DELETE {
            let removed = self.by_path.remove(path);
            return removed.map_or_else(|| failure(StatusCode::NOT_FOUND), |object| (StatusCode::OK, object));
        }
        let path = if *method == Method::POST {
            object["metadata"]["creationTimestamp"] = json!(super::time(SystemTime::now()));
            format!("{path}/{}", object["metadata"]["name"].as_str().unwrap())
        } else {
            path.to_owned()
        };
        let stored = self.by_path.get(&path).map(|stored| stored["metadata"]["resourceVersion"].clone());
        let expected = (*method == Method::PUT).then(|| object["metadata"]["resourceVersion"].clone());
        if stored != expected {
            return failure(StatusCode::CONFLICT);
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object["metadata"]["uid"] = json!("uid");
        self.by_path.insert(path, object.clone());
        (StatusCode::OK, object)
    }
}

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

/// Every write of a rotation may be the last one of a process; the next one goes on from there.
#[tokio::test]
async fn a_rotation_ends_well_whichever_write_is_a_process_last() {
    let mut ended = 0;
    for writes in 0.. {
        let server = Server::default();
        server.establish().await.unwrap();
        let before = server.trust();
        server.ask(json!({"request": "now"}));
        server.ends_after(Some(writes));
        let mut phases = vec![before.phase];
        let mut whole = true;
        for _ in 0..20 {
            if server.establish().await.is_err() {
                whole = false;
                server.ends_after(None);
            }
            let now = server.trust();
            assert!(now.roots.iter().any(|root| root.id == now.signer && root.state == RootState::Active));
            let known = |name: &String| now.roots.iter().any(|root| *name == RootSecrets::name(root.id));
            let unknown = server.secrets().iter().filter(|name| !known(name)).count();
            assert!(unknown <= 1, "one key at most waits for its root to be known");
            for root in now.roots.iter().filter(|root| root.state != RootState::Tainted) {
                assert!(server.secrets().contains(&RootSecrets::name(root.id)), "a root has no key");
            }
            if phases.last() != Some(&now.phase) {
                phases.push(now.phase);
            }
            server.age();
        }
        let after = server.trust();
        assert_ne!(after.signer, before.signer);
        assert_eq!(phases, [Phase::Stable, Phase::Staged, Phase::Signing, Phase::Draining, Phase::Stable]);
        assert_eq!(server.secrets(), [RootSecrets::name(after.signer)], "nothing is left behind");
        if whole {
            break;
        }
        ended += 1;
    }
    assert!(ended >= 5, "a rotation has {ended} writes");
}

#[tokio::test]
async fn a_rotation_is_taken_back() {
    let server = Server::default();
    server.establish().await.unwrap();
    let before = server.trust();
    server.ask(json!({"request": "now"}));
    server.establish().await.unwrap();
    assert_eq!(server.trust().phase, Phase::Staged);
    server.ask(json!({"request": "now", "abort": true}));
    server.establish().await.unwrap();
    let after = server.trust();
    assert_eq!((after.phase, after.signer), (Phase::Stable, before.signer));
    assert_eq!(server.secrets(), [RootSecrets::name(before.signer)]);
    server.age();
    server.establish().await.unwrap();
    assert_eq!(server.trust().phase, Phase::Stable, "it is not begun again");
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
