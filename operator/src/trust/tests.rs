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

use super::{
    Authority, TrustState,
    current::{Current, Stale},
    establish::Establish,
    root_secret::RootSecrets,
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
        Establish::new(client, secrets, domain, Fence::open_for(Duration::from_hours(1)), metrics)
            .once()
            .await
            .map_err(|e| e.to_string())
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
        let path = if *method == Method::POST {
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
    assert_eq!((&held.state, held.authority.id()), (&trust, trust.signer));
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
    assert_eq!(server.current().fresh().await.unwrap().authority.id(), trust.signer);
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
    assert!(matches!(held.fresh().await, Err(Stale::Secret(_))));
    server.establish().await.unwrap();
    let after = server.trust();
    let states: Vec<_> = after.roots.iter().map(|root| (root.id, root.state)).collect();
    assert_eq!(states, [(before.signer, RootState::Draining), (after.signer, RootState::Active)]);
    assert_eq!((after.epoch, after.phase), (before.epoch + 1, Phase::Signing));
    assert_eq!(after.trusted().count(), 2, "nobody stops being trusted");
    assert_eq!(held.fresh().await.unwrap().authority.id(), after.signer);
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
    assert_eq!((held.authority.id(), held.leaf_lifetime), (first.id(), Duration::from_hours(1)));
    server.put(&format!("{SECRETS}/mesh-ca"), tls(&second));
    let refused = server.establish().await.unwrap_err();
    assert!(refused.contains("under another root"), "{refused}");
    assert_eq!(server.trust().signer, first.id());
    assert!(matches!(server.current().fresh().await, Err(Stale::OtherSigner(_))));
}

fn byte_string(text: &str) -> Value {
    json!(k8s_openapi::ByteString(text.as_bytes().to_vec()))
}
