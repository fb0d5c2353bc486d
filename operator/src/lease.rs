//! Leader election by a Lease: one replica writes, the others serve. Knows nothing of what is written.
//!
//! The Lease is taken and renewed by compare-and-swap (Update with resourceVersion). Another holder's term is over
//! when this replica's own monotonic clock has seen no change for the whole duration: no two clocks are compared.
//! A leader's [`Fence`] closes well before anybody else may take over, also when this process was stopped meanwhile.
//!
//! RBAC: `coordination.k8s.io/leases` get, create, update in the operator's namespace.

use std::{convert::Infallible, future::Future, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, api::PostParams};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api_call::{self, ApiError};

const DURATION_SECONDS: i32 = 15;
const DURATION: Duration = Duration::from_secs(15);
/// How long after the start of its last renewal a leader may still begin a write. With the longest call
/// ([`api_call::LIMIT`]) this is the whole duration.
const FENCE: Duration = Duration::from_secs(10);
const RENEW: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(2);

/// The calls to the API server.
pub trait Leases: Send + Sync + 'static {
    /// The Lease, if there is one.
    fn get(&self) -> impl Future<Output = Result<Option<Lease>, ApiError>> + Send;
    /// A first Lease; [`ApiError::Conflict`] when another was faster.
    fn create(&self, lease: Lease) -> impl Future<Output = Result<Lease, ApiError>> + Send;
    /// Replaces the one with the same resourceVersion; [`ApiError::Conflict`] when it changed.
    fn replace(&self, lease: Lease) -> impl Future<Output = Result<Lease, ApiError>> + Send;
}

/// The Lease in the API server.
pub struct ApiLeases {
    api: Api<Lease>,
    name: &'static str,
}

impl ApiLeases {
    /// The Lease of that name.
    pub fn new(client: kube::Client, namespace: &str, name: &'static str) -> Self {
        Self { api: Api::namespaced(client, namespace), name }
    }
}

impl Leases for ApiLeases {
    async fn get(&self) -> Result<Option<Lease>, ApiError> {
        api_call::call(self.api.get_opt(self.name)).await
    }
    async fn create(&self, mut lease: Lease) -> Result<Lease, ApiError> {
        lease.metadata.name = Some(self.name.to_owned());
        api_call::call(self.api.create(&PostParams::default(), &lease)).await
    }
    async fn replace(&self, lease: Lease) -> Result<Lease, ApiError> {
        api_call::call(self.api.replace(self.name, &PostParams::default(), &lease)).await
    }
}

/// Until when this replica may write. Asked before each write; cloning shares.
#[derive(Clone, Debug)]
pub struct Fence(watch::Receiver<Option<Instant>>);

impl Fence {
    /// One that nobody renews: for a single process without election, and for tests.
    pub fn open_for(period: Duration) -> Self {
        Self(watch::channel(Some(Instant::now() + period)).1)
    }

    /// Whether a write may begin now.
    pub fn open(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Runs `work` anew in each term of this replica, and drops it when the term ends. Ends with `stopping`.
    pub async fn lead<F>(mut self, stopping: CancellationToken, work: impl Fn() -> F)
    where
        F: Future<Output = Infallible>,
    {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.opened() => {}
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.closed() => {}
                never = work() => match never {},
            }
        }
    }

    async fn opened(&mut self) {
        while !self.open() {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn closed(&mut self) {
        while self.open() {
            let until = self.0.borrow_and_update().unwrap_or_else(Instant::now);
            tokio::select! {
                () = sleep_until(until) => {}
                changed = self.0.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// One replica's part in the election.
pub struct Candidate<L> {
    leases: L,
    name: String,
    gauge: Gauge,
    fence: watch::Sender<Option<Instant>>,
    /// The Lease as last seen, and since when it has not changed.
    seen: Option<(Lease, Instant)>,
}

impl<L: Leases> Candidate<L> {
    /// `name` must differ between processes, also between two lives of one pod.
    pub fn new(leases: L, name: String, gauge: Gauge) -> (Self, Fence) {
        let (fence, receiver) = watch::channel(None);
        (Self { leases, name, gauge, fence, seen: None }, Fence(receiver))
    }

    /// Takes part until `stopping`, then gives the Lease back.
    pub async fn run(mut self, stopping: CancellationToken) {
        loop {
            let wait = self.round().await;
            tokio::select! {
                () = stopping.cancelled() => break,
                () = sleep(wait) => {}
            }
        }
        self.fence.send_replace(None);
        self.gauge.set(0);
        self.release().await;
    }

    /// One attempt to take or renew; how long to wait before the next.
    async fn round(&mut self) -> Duration {
        let was_leader = self.leading();
        let started = Instant::now();
        let result = self.attempt(started).await;
        match &result {
            Ok(true) => {
                self.fence.send_replace(Some(started + FENCE));
                if !was_leader {
                    info!(replica = self.name, "leading");
                }
            }
            Ok(false) => {
                self.fence.send_replace(None);
                if was_leader {
                    warn!(replica = self.name, "another replica leads now");
                }
            }
            // The fence closes by itself when renewals keep failing.
            Err(e) => {
                warn!(replica = self.name, error = %e, "cannot reach the lease");
                if !self.leading() {
                    self.fence.send_replace(None);
                }
            }
        }
        self.gauge.set(i64::from(self.leading()));
        if matches!(result, Ok(true)) { RENEW } else { RETRY + RETRY.mul_f64(fastrand::f64() / 4.0) }
    }

    fn leading(&self) -> bool {
        self.fence.borrow().is_some_and(|until| Instant::now() < until)
    }

    async fn attempt(&mut self, now: Instant) -> Result<bool, ApiError> {
        let Some(current) = self.leases.get().await? else {
            return self.written(self.leases.create(self.claim(None)).await, now);
        };
        let unchanged = match &self.seen {
            Some((seen, since)) if seen.metadata.resource_version == current.metadata.resource_version => {
                *since
            }
            _ => now,
        };
        let spec = current.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let term = spec
            .lease_duration_seconds
            .and_then(|s| u64::try_from(s).ok())
            .map_or(DURATION, Duration::from_secs);
        let over = now.saturating_duration_since(unchanged) >= term.max(Duration::from_secs(1));
        if holder == self.name || holder.is_empty() || over {
            return self.written(self.leases.replace(self.claim(Some(&current))).await, now);
        }
        self.seen = Some((current, unchanged));
        Ok(false)
    }

    fn written(&mut self, result: Result<Lease, ApiError>, now: Instant) -> Result<bool, ApiError> {
        match result {
            Ok(lease) => {
                self.seen = Some((lease, now));
                Ok(true)
            }
            Err(ApiError::Conflict | ApiError::NotFound) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The Lease as it shall be, ours.
    fn claim(&self, current: Option<&Lease>) -> Lease {
        let before = current.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let now = MicroTime(Timestamp::now());
        let ours = before.holder_identity.as_deref() == Some(&self.name);
        let transitions = before.lease_transitions.unwrap_or(0);
        Lease {
            metadata: current.map_or_else(ObjectMeta::default, |lease| lease.metadata.clone()),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.name.clone()),
                lease_duration_seconds: Some(DURATION_SECONDS),
                acquire_time: if ours { before.acquire_time } else { Some(now.clone()) },
                renew_time: Some(now),
                lease_transitions: Some(if ours || current.is_none() {
                    transitions
                } else {
                    transitions + 1
                }),
                ..LeaseSpec::default()
            }),
        }
    }

    async fn release(&mut self) {
        let Some((mut lease, _)) = self.seen.take() else { return };
        let Some(spec) = lease.spec.as_mut() else { return };
        if spec.holder_identity.as_deref() != Some(&self.name) {
            return;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        if let Err(e) = self.leases.replace(lease).await {
            warn!(replica = self.name, error = %e, "cannot give the lease back; the next leader waits for its end");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    /// An API server with one object, which can be made to fail.
    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<(Option<Lease>, u64, bool)>>);

    impl Fake {
        fn down(&self, down: bool) {
            self.0.lock().2 = down;
        }
        fn spec(&self) -> LeaseSpec {
            self.0.lock().0.clone().unwrap().spec.unwrap()
        }
        fn store(&self, mut lease: Lease, expected: Option<&str>) -> Result<Lease, ApiError> {
            let mut state = self.0.lock();
            if state.2 {
                return Err(ApiError::TimedOut);
            }
            if state.0.as_ref().and_then(|l| l.metadata.resource_version.as_deref()) != expected {
                return Err(ApiError::Conflict);
            }
            state.1 += 1;
            lease.metadata.resource_version = Some(state.1.to_string());
            state.0 = Some(lease.clone());
            Ok(lease)
        }
    }

    impl Leases for Fake {
        async fn get(&self) -> Result<Option<Lease>, ApiError> {
            let state = self.0.lock();
            if state.2 { Err(ApiError::TimedOut) } else { Ok(state.0.clone()) }
        }
        async fn create(&self, lease: Lease) -> Result<Lease, ApiError> {
            self.store(lease, None)
        }
        async fn replace(&self, lease: Lease) -> Result<Lease, ApiError> {
            let expected = lease.metadata.resource_version.clone();
            self.store(lease, expected.as_deref())
        }
    }

    async fn until(what: impl Fn() -> bool) -> Duration {
        let start = Instant::now();
        while !what() {
            sleep(Duration::from_millis(100)).await;
            assert!(start + Duration::from_mins(2) > Instant::now(), "it never happened");
        }
        Instant::now().saturating_duration_since(start)
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_the_next_follows_at_once_after_a_release() {
        let (fake, stop_a, stop_b) = (Fake::default(), CancellationToken::new(), CancellationToken::new());
        let (a, fence_a) = Candidate::new(fake.clone(), "a".into(), Gauge::default());
        let a = tokio::spawn(a.run(stop_a.clone()));
        until(|| fence_a.open()).await;
        let (b, fence_b) = Candidate::new(fake.clone(), "b".into(), Gauge::default());
        tokio::spawn(b.run(stop_b.clone()));
        sleep(Duration::from_mins(3)).await;
        assert!(fence_a.open() && !fence_b.open(), "renewals keep the other out");
        assert_eq!(fake.spec().lease_transitions, Some(0));
        stop_a.cancel();
        a.await.unwrap();
        assert!(!fence_a.open());
        let waited = until(|| fence_b.open()).await;
        assert!(waited <= RETRY * 2, "{waited:?}");
        assert_eq!((fake.spec().holder_identity, fake.spec().lease_transitions), (Some("b".into()), Some(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_stops_before_another_begins() {
        let fake = Fake::default();
        let (mut a, fence_a) = Candidate::new(fake.clone(), "a".into(), Gauge::default());
        a.round().await;
        assert!(fence_a.open());
        let (mut b, fence_b) = Candidate::new(fake.clone(), "b".into(), Gauge::default());
        b.round().await;
        fake.down(true);
        a.round().await;
        assert!(fence_a.open(), "one failed renewal is no end");
        sleep(FENCE).await;
        assert!(!fence_a.open());
        fake.down(false);
        b.round().await;
        assert!(!fence_b.open(), "the duration is not over on b's own clock");
        sleep(DURATION.saturating_sub(FENCE)).await;
        b.round().await;
        assert!(fence_b.open());
        a.round().await;
        assert!(!fence_a.open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_was_stopped_wakes_up_fenced() {
        let (mut a, fence) = Candidate::new(Fake::default(), "a".into(), Gauge::default());
        a.round().await;
        tokio::time::advance(Duration::from_hours(1)).await;
        assert!(!fence.open());
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_at_the_same_moment_one_wins() {
        let fake = Fake::default();
        let (mut a, fence_a) = Candidate::new(fake.clone(), "a".into(), Gauge::default());
        let (mut b, fence_b) = Candidate::new(fake.clone(), "b".into(), Gauge::default());
        let claim_b = b.claim(None);
        a.round().await;
        let late = fake.create(claim_b).await;
        assert!(!b.written(late, Instant::now()).unwrap());
        b.round().await;
        assert!(fence_a.open() && !fence_b.open());
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_dropped_when_the_term_ends() {
        let (sender, receiver) = watch::channel(Some(Instant::now() + FENCE));
        let fence = Fence(receiver);
        let terms = Arc::new(Mutex::new((0, 0)));
        let (stopping, seen) = (CancellationToken::new(), terms.clone());
        let work = move || {
            let seen = seen.clone();
            async move {
                seen.lock().0 += 1;
                let guard = scopeguard(seen.clone());
                let never = std::future::pending().await;
                drop(guard);
                never
            }
        };
        let leading = tokio::spawn(fence.lead(stopping.clone(), work));
        sleep(FENCE / 2).await;
        assert_eq!(*terms.lock(), (1, 0));
        sleep(FENCE).await;
        assert_eq!(*terms.lock(), (1, 1), "dropped at the fence, without any message");
        sender.send_replace(Some(Instant::now() + FENCE));
        sleep(Duration::from_millis(1)).await;
        assert_eq!(*terms.lock(), (2, 1));
        stopping.cancel();
        leading.await.unwrap();
        assert_eq!(*terms.lock(), (2, 2));
    }

    struct OnDrop(Arc<Mutex<(u32, u32)>>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.lock().1 += 1;
        }
    }
    fn scopeguard(counts: Arc<Mutex<(u32, u32)>>) -> OnDrop {
        OnDrop(counts)
    }
}
