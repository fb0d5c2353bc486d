//! An API server in memory that can fail after any write, and a leader that works against it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use byrnie_crds::{MeshTrust, meshtrust::RootState};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::{
    TrustState,
    current::Current,
    establish::Establish,
    fleet::TakeCensus,
    root_secret::RootSecrets,
    rotation::census::{Census, Holds, Proxy},
    time,
};
use crate::{lease::Fence, metrics::Metrics};

pub(super) const TRUST: &str = "/apis/byrnie.dev/v1alpha1/meshtrusts/default";
pub(super) const SECRETS: &str = "/api/v1/namespaces/byrnie-system/secrets";

/// Objects by path; every write gets a new resourceVersion, and one with an old one is refused.
#[derive(Clone, Default)]
pub(super) struct Server(pub(super) Arc<Mutex<Objects>>);

#[derive(Default)]
pub(super) struct Objects {
    pub(super) by_path: BTreeMap<String, Value>,
    version: u64,
    end: Option<End>,
}

/// When the process that writes is thought to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// After so many writes.
    pub(super) after: u32,
    /// The next one is done all the same, and nobody hears of it.
    pub(super) unheard: bool,
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

    pub(super) fn ends(&self, end: Option<End>) {
        self.0.lock().end = end;
    }

    pub(super) fn ends_after(&self, writes: Option<u32>) {
        self.ends(writes.map(|after| End { after, unheard: false }));
    }

    pub(super) fn trust(&self) -> TrustState {
        let object: MeshTrust = serde_json::from_value(self.0.lock().by_path[TRUST].clone()).unwrap();
        TrustState::read(&object, "cluster.local".parse().unwrap()).unwrap().unwrap()
    }

    pub(super) fn secrets(&self) -> Vec<String> {
        let names = self.0.lock().by_path.keys().cloned().collect::<Vec<_>>();
        names
            .iter()
            .filter_map(|path| path.strip_prefix(SECRETS)?.strip_prefix('/').map(Into::into))
            .collect()
    }

    pub(super) fn remove(&self, path: &str) {
        self.0.lock().by_path.remove(path);
    }

    pub(super) fn put(&self, path: &str, object: Value) {
        self.0.lock().by_path.insert(path.into(), object);
    }

    /// A new process leads, and does what there is to do.
    pub(super) async fn establish(&self) -> Result<(), String> {
        self.leader(self.followers(), Duration::from_hours(1)).once().await.map_err(|e| e.to_string())
    }

    /// The same where no phase lasts any longer than proxies take.
    pub(super) async fn establish_at_once(&self) -> Result<(), String> {
        let leader = self.leader(self.followers(), Duration::from_hours(1)).with_dwell(Duration::ZERO);
        leader.once().await.map_err(|e| e.to_string())
    }

    /// A process whose lease lasts for so long.
    pub(super) fn leader(&self, census: TakeCensus, lease: Duration) -> Establish {
        let (client, metrics) = (self.client(), Metrics::default());
        let secrets = RootSecrets::new(client.clone(), "byrnie-system", "byrnie-operator");
        let domain = "cluster.local".parse().unwrap();
        let (_, trust) = watch::channel(None);
        Establish::new(client, secrets, domain, census, trust, Fence::open_for(lease), metrics)
    }

    /// Proxies that do at once what MeshTrust says.
    pub(super) fn followers(&self) -> TakeCensus {
        let server = self.clone();
        Box::new(move || Census { complete: true, proxies: server.obedient() })
    }

    /// Two proxies that have done already what MeshTrust says.
    pub(super) fn obedient(&self) -> Vec<Proxy> {
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
    pub(super) fn age(&self) {
        let since = self.trust().since - Duration::from_mins(2);
        let mut objects = self.0.lock();
        objects.by_path.get_mut(TRUST).unwrap()["status"]["phaseSince"] = json!(time(since));
    }

    pub(super) fn ask(&self, rotation: Value) {
        self.wish("rotation", rotation);
    }

    /// Sets a part of the spec, as a user does: whoever has read it before may not write.
    pub(super) fn wish(&self, field: &str, value: Value) {
        let mut objects = self.0.lock();
        objects.version += 1;
        let version = objects.version.to_string();
        let object = objects.by_path.get_mut(TRUST).unwrap();
        object["spec"][field] = value;
        object["metadata"]["resourceVersion"] = json!(version);
    }

    /// All keys were made earlier.
    pub(super) fn age_secrets(&self, by: Duration) {
        let made = json!(time(SystemTime::now() - by));
        for (_, object) in self.0.lock().by_path.iter_mut().filter(|(path, _)| path.starts_with(SECRETS)) {
            object["metadata"]["creationTimestamp"] = made.clone();
        }
    }

    pub(super) fn current(&self) -> Current {
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
        let mut heard = true;
        match &mut self.end {
            Some(End { after: 0, unheard: false }) => return failure(StatusCode::SERVICE_UNAVAILABLE),
            Some(end @ End { after: 0, .. }) => {
                end.unheard = false;
                heard = false;
            }
            Some(end) => end.after -= 1,
            None => {}
        }
        if *method == Method::DELETE {
            let removed = self.by_path.remove(path);
            if !heard {
                return failure(StatusCode::SERVICE_UNAVAILABLE);
            }
            return removed.map_or_else(|| failure(StatusCode::NOT_FOUND), |object| (StatusCode::OK, object));
        }
        let path = if *method == Method::POST {
            object["metadata"]["creationTimestamp"] = json!(time(SystemTime::now()));
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
        if heard { (StatusCode::OK, object) } else { failure(StatusCode::SERVICE_UNAVAILABLE) }
    }
}
