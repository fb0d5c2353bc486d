//! What only one replica does, each part in a task of its own, in every term of this replica: establish trust and rotate
//! its root, tell of the roots in ConfigMaps and a ClusterTrustBundle, answer kubelets that ask for certificates, look
//! after pods without a proxy, follow what the proxies of other replicas hold, write statuses.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use byrnie_crds::names;
use byrnie_model::TrustDomain;
use kube::{
    Client,
    runtime::events::{Recorder, Reporter},
};

use crate::{
    bundle_config_map::{Address, BundleConfigMaps},
    cluster_trust_bundle::ClusterTrustBundles,
    discovery::{Discovery, replicas::Replicas},
    issuance::pod_certificates::PodCertificates,
    lease::{ApiLeases, Candidate, Fence},
    metrics::Metrics,
    status::Statuses,
    tasks::Tasks,
    trust::{announce::Announcer, current::Current, establish::Establish, fleet, root_secret::RootSecrets},
    uninjected::Uninjected,
};

/// What the parts need.
pub struct Leader {
    /// To the API server.
    pub client: Client,
    /// Where roots are kept.
    pub secrets: RootSecrets,
    /// For a MeshTrust that does not exist yet.
    pub trust_domain: TrustDomain,
    /// The trust in force.
    pub current: Current,
    /// What proxies hold, and the world.
    pub discovery: Discovery,
    /// The other replicas, and the watched objects.
    pub replicas: Replicas,
    /// How long a phase of a rotation lasts at least.
    pub dwell: Duration,
    /// Whether pods without a proxy are evicted.
    pub evict_uninjected: bool,
    /// What proxies are told of the operator.
    pub address: Address,
    /// Counts.
    pub metrics: Metrics,
}

impl Leader {
    /// Takes part in the election, and does the work whenever this replica leads.
    pub fn start(self, tasks: &Tasks) {
        let Self {
            client, secrets, trust_domain, current, discovery, replicas, dwell, address, metrics, ..
        } = self;
        let trust = current.subscribe();
        let leases = ApiLeases::new(client.clone(), &replicas.namespace, names::OPERATOR);
        // No two processes have the same name, also not two lives of one pod.
        let name = format!("{}_{:08x}", replicas.replica, fastrand::u32(..));
        let (candidate, fence) = Candidate::new(leases, name, metrics.leader.clone());
        tasks.spawn("lease", candidate.run(tasks.stopping()));

        let stores = replicas.stores.clone();
        let census = fleet::census(discovery.clone(), stores.clone());
        let establish = Establish::new(
            client.clone(),
            secrets,
            trust_domain.clone(),
            census,
            trust.clone(),
            fence.clone(),
            metrics.clone(),
        );
        let outlook = establish.outlook();
        let reporter =
            Reporter { controller: names::OPERATOR.into(), instance: Some(replicas.replica.clone()) };
        let recorder = Recorder::new(client.clone(), reporter);
        let announcer = Announcer::new(recorder.clone());
        let establish = Arc::new(establish.with_dwell(dwell).with_events(announcer));
        spawn(tasks, "establish", &fence, move || {
            let establish = establish.clone();
            async move { establish.run().await }
        });

        let bundles = BundleConfigMaps::new(
            client.clone(),
            stores.clone(),
            trust.clone(),
            address,
            fence.clone(),
            metrics.clone(),
        );
        let bundles = Arc::new(bundles);
        spawn(tasks, "bundle-config-maps", &fence, move || {
            let bundles = bundles.clone();
            async move { bundles.run().await }
        });

        let bundle = Arc::new(ClusterTrustBundles {
            client: client.clone(),
            trust: trust.clone(),
            fence: fence.clone(),
            metrics: metrics.clone(),
        });
        spawn(tasks, "cluster-trust-bundle", &fence, move || {
            let bundle = bundle.clone();
            async move { bundle.run().await }
        });

        let pod_certificates = Arc::new(PodCertificates {
            client: client.clone(),
            stores: stores.clone(),
            current,
            domain: trust_domain,
            fence: fence.clone(),
            metrics: metrics.clone(),
        });
        spawn(tasks, "pod-certificates", &fence, move || {
            let pod_certificates = pod_certificates.clone();
            async move { pod_certificates.run().await }
        });

        let uninjected = Arc::new(Uninjected::new(
            client.clone(),
            stores.clone(),
            recorder,
            fence.clone(),
            metrics.clone(),
            self.evict_uninjected,
        ));
        spawn(tasks, "uninjected", &fence, move || {
            let uninjected = uninjected.clone();
            async move { uninjected.run().await }
        });

        let holdings = discovery.holdings();
        spawn(tasks, "replicas", &fence, move || {
            let (holdings, replicas) = (holdings.clone(), replicas.clone());
            async move { holdings.follow(&replicas).await }
        });

        let statuses =
            Arc::new(Statuses::new(client, stores, discovery, trust, outlook, fence.clone(), metrics));
        spawn(tasks, "statuses", &fence, move || {
            let statuses = statuses.clone();
            async move { statuses.run().await }
        });
    }
}

fn spawn<F>(tasks: &Tasks, name: &'static str, fence: &Fence, work: impl Fn() -> F + Send + 'static)
where
    F: Future<Output = Infallible> + Send + 'static,
{
    let (fence, stopping) = (fence.clone(), tasks.stopping());
    tasks.spawn(name, async move { fence.lead(stopping, work).await });
}
