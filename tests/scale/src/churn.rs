//! Endpoints that change at a steady rate, and how long it takes until every proxy that asked for them has each change.
//!
//! A change gives one endpoint of a Service another port, which says its number. A change is everywhere when each stream
//! has it or a later one: the latest is enough.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use anyhow::{Context, Result};
use futures::{StreamExt, stream::FuturesUnordered};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::{
    cluster::Target,
    journal::{Events, Sight, since},
    report::Spread,
};

/// The port of change 0; nobody else's port is as high.
pub(crate) const FIRST_PORT: u16 = 20_000;
/// Requests that may be under way, one for each Service: where the API server is slower than the rate, changes come
/// later, and never in each other's way.
const AT_ONCE: usize = 64;
const REQUEST: Duration = Duration::from_secs(10);
/// How long the last changes may take.
const REST: Duration = Duration::from_secs(10);

/// What came of it.
#[derive(Serialize)]
pub(crate) struct Outcome {
    pub(crate) changes: usize,
    pub(crate) changes_per_second: f64,
    /// Changes that some stream never got.
    pub(crate) lost: usize,
    /// From when the request was sent, the API server's own time included.
    pub(crate) propagation_ms: Spread,
    /// From when the API server had answered; zero where the proxies were faster.
    pub(crate) after_write_ms: Spread,
    /// The API server's answer itself.
    pub(crate) api_ms: Spread,
}

/// Counts each Service's changes, over the whole run.
#[derive(Default)]
pub(crate) struct Churn {
    numbers: Vec<u16>,
}

/// A change.
struct Sent {
    service: usize,
    number: u16,
    asked: Instant,
    answered: Instant,
}

impl Churn {
    /// Changes endpoints for a while. `followers` says how many proxies asked for each Service.
    pub(crate) async fn run(
        &mut self,
        client: &Client,
        services: &[Target],
        followers: &[usize],
        (rate, seconds): (u32, u64),
        events: &mut Events,
    ) -> Result<Outcome> {
        for target in &services[self.numbers.len()..] {
            write(client, target, 0).await?;
            self.numbers.push(0);
        }
        let mut tick = interval(Duration::from_secs(1) / rate);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let began = Instant::now();
        let end = began + Duration::from_secs(seconds);
        let (mut under_way, mut sent, mut arrivals) =
            (FuturesUnordered::new(), Vec::new(), Arrivals::default());
        // whose turn it is; a Service comes back when its change has been answered
        let mut free: VecDeque<usize> = (0..services.len()).collect();
        loop {
            tokio::select! {
                _ = tick.tick(), if under_way.len() < AT_ONCE && !free.is_empty() => {
                    let service = free.pop_front().context("no Services")?;
                    self.numbers[service] += 1;
                    under_way.push(change(client, services, service, self.numbers[service]));
                }
                Some(done) = under_way.next() => {
                    let done: Sent = done?;
                    free.push_back(done.service);
                    sent.push(done);
                }
                () = sleep_until(end) => break,
                Some(event) = events.next(end) => arrivals.note(event.proxy, event.at, &event.what),
            }
        }
        let took = since(began);
        while let Some(done) = under_way.next().await {
            sent.push(done?);
        }
        let until = Instant::now() + REST;
        while sent.iter().any(|change| arrivals.everywhere(change, followers).is_none()) {
            let Some(event) = events.next(until).await else { break };
            arrivals.note(event.proxy, event.at, &event.what);
        }
        Ok(outcome(&sent, &arrivals, followers, took))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn outcome(sent: &[Sent], arrivals: &Arrivals, followers: &[usize], took: Duration) -> Outcome {
    let arrived: Vec<_> =
        sent.iter().filter_map(|change| Some((change, arrivals.everywhere(change, followers)?))).collect();
    Outcome {
        changes: sent.len(),
        changes_per_second: sent.len() as f64 / took.as_secs_f64(),
        lost: sent.len() - arrived.len(),
        propagation_ms: arrived.iter().map(|(change, at)| *at - change.asked).collect(),
        after_write_ms: arrived
            .iter()
            .map(|(change, at)| at.saturating_duration_since(change.answered))
            .collect(),
        api_ms: sent.iter().map(|change| change.answered - change.asked).collect(),
    }
}

/// When each proxy saw what, in order.
#[derive(Default)]
struct Arrivals(HashMap<usize, HashMap<usize, Vec<(u16, Instant)>>>);

impl Arrivals {
    fn note(&mut self, proxy: usize, at: Instant, what: &Sight) {
        if let Sight::Change { service, number } = what {
            self.0.entry(*service).or_default().entry(proxy).or_default().push((*number, at));
        }
    }

    /// When the last proxy had it.
    fn everywhere(&self, change: &Sent, followers: &[usize]) -> Option<Instant> {
        let seen = self.0.get(&change.service)?;
        let first = |seen: &Vec<(u16, Instant)>| {
            let from = seen.partition_point(|(number, _)| *number < change.number);
            seen.get(from).map(|(_, at)| *at)
        };
        let arrived: Vec<Instant> = seen.values().filter_map(first).collect();
        (arrived.len() >= followers[change.service]).then(|| arrived.into_iter().max())?
    }
}

async fn change(client: &Client, services: &[Target], service: usize, number: u16) -> Result<Sent> {
    let asked = Instant::now();
    timeout(REQUEST, write(client, &services[service], number))
        .await
        .context("the API server does not answer")??;
    Ok(Sent { service, number, asked, answered: Instant::now() })
}

/// A second slice of the Service, with one of its own pods at a port that says the change's number.
async fn write(client: &Client, target: &Target, number: u16) -> Result<()> {
    let name = format!("{}-changes", target.name);
    let api = Api::<EndpointSlice>::namespaced(client.clone(), &target.namespace);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/service-name": target.name,
                "endpointslice.kubernetes.io/managed-by": "byrnie-scale",
                "service.kubernetes.io/service-proxy-name": "none",
            },
        },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": [target.pod_address],
            "conditions": {"ready": true, "serving": true},
            "targetRef": {"kind": "Pod", "namespace": target.namespace, "name": target.pod},
        }],
        "ports": [{"name": "http", "port": FIRST_PORT + number, "protocol": "TCP", "appProtocol": "http"}],
    });
    let done = if number == 0 {
        api.patch(&name, &PatchParams::apply("byrnie-scale").force(), &Patch::Apply(slice)).await
    } else {
        api.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"ports": slice["ports"]}))).await
    };
    done.map(|_| ()).with_context(|| format!("cannot change {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_everywhere_when_the_last_proxy_has_it_or_a_later_one() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut arrivals = Arrivals::default();
        for (proxy, number, ms) in [(7, 1, 5), (7, 2, 20), (8, 2, 30)] {
            arrivals.note(proxy, at(ms), &Sight::Change { service: 1, number });
        }
        let everywhere = |number, followers| {
            arrivals.everywhere(&Sent { service: 1, number, asked: start, answered: start }, &[0, followers])
        };
        assert_eq!(everywhere(1, 2), Some(at(30)), "proxy 8 was told the second at once");
        assert_eq!(everywhere(2, 2), Some(at(30)));
        assert_eq!(everywhere(3, 2), None);
        assert_eq!(everywhere(1, 3), None, "a third never got it");
    }
}
