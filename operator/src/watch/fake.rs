//! An API server in memory, for tests: lists and watches of any collection, and all that can go wrong with them.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::sleep};

/// What a list takes.
const LIST: Duration = Duration::from_millis(10);

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// See the module; cloning shares.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    version: u64,
    /// Nobody can watch from before.
    forgotten: u64,
    objects: BTreeMap<(String, String), Value>,
    watches: HashMap<u64, (String, mpsc::UnboundedSender<Bytes>)>,
    /// Their connections are open, and nothing comes through any more.
    dead: Vec<mpsc::UnboundedSender<Bytes>>,
    away: bool,
    /// So many requests get no answer, ever.
    swallow: u32,
    lists: u32,
    opened: u64,
}

impl FakeApi {
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { api.answer(request.uri().clone()).await }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, uri: http::Uri) -> Result<Answer, std::io::Error> {
        if self.0.lock().away {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        if let Some(left) = {
            let left = self.0.lock().swallow;
            left.checked_sub(1)
        } {
            self.0.lock().swallow = left;
            std::future::pending::<()>().await;
        }
        let query: HashMap<&str, &str> =
            uri.query().unwrap_or_default().split('&').filter_map(|p| p.split_once('=')).collect();
        let path = uri.path();
        if query.contains_key("watch") {
            return Ok(self.watch(path, &query));
        }
        sleep(LIST).await;
        Ok(self.list(path))
    }

    fn list(&self, path: &str) -> Answer {
        let mut state = self.0.lock();
        state.lists += 1;
        let items: Vec<&Value> =
            state.objects.iter().filter(|((of, _), _)| of == path).map(|(_, object)| object).collect();
        let list = json!({"metadata": {"resourceVersion": state.version.to_string()}, "items": items});
        whole(StatusCode::OK, &list)
    }

    fn watch(&self, path: &str, query: &HashMap<&str, &str>) -> Answer {
        let from: u64 = query["resourceVersion"].parse().unwrap();
        let mut state = self.0.lock();
        let refuse = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason});
            whole(StatusCode::from_u16(code).unwrap(), &status)
        };
        if from < state.forgotten {
            return refuse(410, "Expired");
        }
        if from > state.version {
            return refuse(504, "Too large resource version");
        }
        let (says, said) = mpsc::unbounded_channel();
        for object in state.objects.iter().filter(|((of, _), _)| of == path).map(|(_, object)| object) {
            if version(object) > from {
                says.send(event("MODIFIED", object)).unwrap();
            }
        }
        state.opened += 1;
        let id = state.opened;
        state.watches.insert(id, (path.to_owned(), says));
        let (api, ends) = (self.clone(), query["timeoutSeconds"].parse().unwrap());
        tokio::spawn(async move {
            sleep(Duration::from_secs(ends)).await;
            api.0.lock().watches.remove(&id);
        });
        let frames = futures::stream::unfold(said, async |mut said| {
            said.recv().await.map(|bytes| (Ok::<_, Infallible>(Frame::data(bytes)), said))
        });
        Response::new(StreamBody::new(frames.boxed()).boxed_unsync())
    }

    /// Makes or changes an object of a collection, and says so to whoever watches.
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut state = self.0.lock();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        state.tell(path, &event("MODIFIED", &object));
        state.objects.insert((path.into(), name), object);
    }

    /// As if nothing that was written since `version` had ever been.
    pub(crate) fn restore(&self, version: u64) {
        let mut state = self.0.lock();
        state.version = version;
        state.objects.retain(|_, object| self::version(object) <= version);
        state.watches.clear();
    }

    pub(crate) fn version(&self) -> u64 {
        self.0.lock().version
    }

    /// Refuses connections, and breaks those that there are; or is back.
    pub(crate) fn away(&self, away: bool) {
        let mut state = self.0.lock();
        state.away = away;
        state.watches.clear();
    }

    /// From now on nothing comes through the connections of open watches, and `requests` more are never answered.
    pub(crate) fn blackhole(&self, requests: u32) {
        let mut state = self.0.lock();
        state.swallow = requests;
        let dead: Vec<_> = state.watches.drain().map(|(_, (_, says))| says).collect();
        state.dead.extend(dead);
    }

    /// Forgets the past: whoever watches is told, and cannot go on from where he was.
    pub(crate) fn compact(&self) {
        let mut state = self.0.lock();
        state.version += 1;
        state.forgotten = state.version;
        let status = json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"});
        for (_, (_, says)) in state.watches.drain() {
            let _ = says.send(event("ERROR", &status));
        }
    }

    pub(crate) fn lists(&self) -> u32 {
        self.0.lock().lists
    }
}

impl State {
    fn tell(&mut self, path: &str, event: &Bytes) {
        let here = self.watches.values().filter(|(of, _)| of == path);
        here.for_each(|(_, says)| drop(says.send(event.clone())));
    }
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

fn event(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

fn whole(status: StatusCode, body: &Value) -> Answer {
    let body = Full::from(body.to_string()).boxed_unsync();
    Response::builder().status(status).body(body).unwrap()
}
