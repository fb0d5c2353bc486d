//! The called namespace as facts: read once from Kubernetes objects, by the code that the operator reads them with.

use std::collections::BTreeMap;

use byrnie_crds::{
    MeshPolicy, TrafficSplit, cluster,
    compile::{self, Shares},
    govern::{Candidate, PodFacts, ServiceFacts, ServicePort},
    names,
    status::PROGRAMMED,
};
use byrnie_model::{MtlsMode, TrustDomain};
use k8s_openapi::{
    api::core::v1::{self, Namespace},
    jiff::Timestamp,
};
use kube::ResourceExt;
use serde_json::Value;

use super::answer::Rule;

/// As the API server has them. All but `callers` are of the called namespace.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) trust_domain: TrustDomain,
    pub(super) namespace: Namespace,
    pub(super) policies: Vec<MeshPolicy>,
    pub(super) splits: Vec<TrafficSplit>,
    pub(super) services: Vec<v1::Service>,
    pub(super) pods: Vec<v1::Pod>,
    /// Pods of the caller's namespace; `None`: they may not be seen, or nobody in particular calls.
    pub(super) callers: Option<Vec<v1::Pod>>,
}

/// What decisions need of them.
#[derive(Debug)]
pub(super) struct World {
    pub(super) trust_domain: TrustDomain,
    pub(super) namespace: String,
    pub(super) default: MtlsMode,
    pub(super) policies: Vec<Policy>,
    pub(super) services: BTreeMap<String, Service>,
    pub(super) pods: BTreeMap<String, Pod>,
    pub(super) callers: Option<Vec<CallerPod>>,
    splits: Vec<Split>,
}

/// A policy, and what its author wrote.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) candidate: Candidate,
    /// Proxies that have it in force, of all; `None`: all have.
    pub(super) behind: Option<String>,
    written: MeshPolicy,
}

#[derive(Debug)]
pub(super) struct Service {
    pub(super) selector: BTreeMap<String, String>,
    pub(super) external_name: Option<String>,
    /// Names of its ports, in the order of `ports`.
    pub(super) port_names: Vec<String>,
    pub(super) ports: Vec<ServicePort>,
}

#[derive(Debug)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    /// Container ports of the application over TCP, with their names; empty where they have none.
    pub(super) ports: Vec<(String, u16)>,
    pub(super) address: Option<String>,
    pub(super) meshed: bool,
    pub(super) ready: bool,
    /// Ports that are not redirected to its proxy.
    pub(super) skipped: Vec<u16>,
    named_ports: Vec<(String, u16)>,
}

/// A pod that may be who calls.
#[derive(Debug)]
pub(super) struct CallerPod {
    pub(super) name: String,
    pub(super) account: String,
    pub(super) meshed: bool,
}

#[derive(Debug)]
struct Split {
    name: String,
    created: Timestamp,
    shares: Shares,
}

impl World {
    pub(super) fn read(objects: &Objects) -> Self {
        let trust_domain = objects.trust_domain.clone();
        let splits = objects.splits.iter().filter_map(|split| {
            let shares = compile::traffic_split(split).ok()?;
            Some(Split { name: split.name_any(), created: created(split), shares })
        });
        let live = |pods: &'_ [v1::Pod]| -> Vec<v1::Pod> {
            pods.iter().filter(|pod| cluster::is_live(pod)).cloned().collect()
        };
        Self {
            namespace: objects.namespace.name_any(),
            default: cluster::mtls_default(&objects.namespace),
            policies: objects.policies.iter().map(|policy| Policy::read(policy, &trust_domain)).collect(),
            services: objects.services.iter().map(|s| (s.name_any(), Service::read(s))).collect(),
            pods: live(&objects.pods).iter().map(|pod| (pod.name_any(), Pod::read(pod))).collect(),
            callers: objects.callers.as_ref().map(|pods| live(pods).iter().map(CallerPod::read).collect()),
            splits: splits.collect(),
            trust_domain,
        }
    }

    /// The split that divides a Service's calls: the oldest that was understood, then the first by name.
    pub(super) fn split(&self, service: &str) -> Option<(&str, &Shares)> {
        let about = self.splits.iter().filter(|split| split.shares.service == service);
        let first = about.min_by_key(|split| (split.created, split.name.as_str()))?;
        Some((&first.name, &first.shares))
    }

    /// All Services as policies look at them.
    pub(super) fn service_facts(&self) -> Vec<ServiceFacts<'_>> {
        self.services.iter().map(|(name, service)| service.facts(name)).collect()
    }

    /// A policy of the namespace by its name.
    pub(super) fn policy(&self, name: &str) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.candidate.compiled.name.name == name)
    }
}

impl Policy {
    fn read(policy: &MeshPolicy, trust_domain: &TrustDomain) -> Self {
        let compiled = compile::mesh_policy(policy, trust_domain);
        let candidate = Candidate { compiled, created: created(policy) };
        Self { candidate, behind: behind(policy), written: policy.clone() }
    }

    /// A rule as it was written.
    pub(super) fn rule(&self, index: usize) -> Option<Rule> {
        let authorization = self.written.spec.authorization.as_ref()?.as_ref().ok()?;
        let text = serde_json::to_value(authorization.rules.get(index)?).unwrap_or(Value::Null);
        Some(Rule { index, text })
    }
}

impl Service {
    fn read(service: &v1::Service) -> Self {
        let spec = service.spec.as_ref();
        let external = spec.filter(|spec| spec.type_.as_deref() == Some("ExternalName"));
        let (port_names, ports) = cluster::service_ports(service).into_iter().unzip();
        Self {
            selector: spec.and_then(|spec| spec.selector.clone()).unwrap_or_default(),
            external_name: external.map(|spec| spec.external_name.clone().unwrap_or_default()),
            port_names,
            ports,
        }
    }

    /// As policies look at it.
    pub(super) fn facts<'a>(&'a self, name: &'a str) -> ServiceFacts<'a> {
        ServiceFacts { name, selector: &self.selector, ports: &self.ports }
    }
}

impl Pod {
    fn read(pod: &v1::Pod) -> Self {
        let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let tcp = containers.iter().flat_map(|container| container.ports.iter().flatten());
        let tcp = tcp.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        Self {
            name: pod.name_any(),
            labels: pod.labels().clone(),
            ports: tcp
                .filter_map(|port| {
                    Some((port.name.clone().unwrap_or_default(), u16::try_from(port.container_port).ok()?))
                })
                .collect(),
            address: pod.status.as_ref().and_then(|status| status.pod_ip.clone()),
            meshed: cluster::is_meshed(pod),
            ready: conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True"),
            skipped: skipped(pod),
            named_ports: cluster::named_ports(pod),
        }
    }

    /// As policies look at it.
    pub(super) fn facts<'a>(&'a self, namespace: &'a str) -> PodFacts<'a> {
        PodFacts { namespace, labels: &self.labels, named_ports: &self.named_ports }
    }
}

impl CallerPod {
    fn read(pod: &v1::Pod) -> Self {
        Self {
            name: pod.name_any(),
            account: cluster::service_account(pod).to_owned(),
            meshed: cluster::is_meshed(pod),
        }
    }
}

/// What the redirect was told when the pod was made: the annotation may have changed since.
fn skipped(pod: &v1::Pod) -> Vec<u16> {
    let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let args = inits
        .filter(|container| container.name == names::INIT_CONTAINER)
        .flat_map(|container| container.args.iter().flatten());
    let lists = args.filter_map(|arg| arg.strip_prefix("--skip-inbound-ports="));
    lists.flat_map(|list| list.split(',')).filter_map(|port| port.parse().ok()).collect()
}

/// How many proxies have acknowledged what is written now, where not all have.
fn behind(policy: &MeshPolicy) -> Option<String> {
    let Some(status) = &policy.status else { return Some("no proxy yet".into()) };
    let condition = status.conditions.iter().find(|condition| condition.type_ == PROGRAMMED);
    let current = condition.filter(|condition| condition.observed_generation == policy.metadata.generation);
    match current {
        None => Some("no proxy yet, as far as its status says".into()),
        Some(condition) if condition.status == "True" => None,
        Some(_) => {
            let proxies = status.proxies.unwrap_or_default();
            Some(format!("{} of {} proxies", proxies.programmed, proxies.total))
        }
    }
}

fn created(object: &impl ResourceExt) -> Timestamp {
    object.creation_timestamp().map_or(Timestamp::MAX, |time| time.0)
}
