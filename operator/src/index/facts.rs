//! Kubernetes objects cut down to what decisions need. Everything else is forgotten as soon as it was read.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use byrnie_crds::{
    MeshPolicy, TrafficSplit, cluster,
    compile::{self, Shares},
    govern::{Candidate, PodFacts, ServiceFacts, ServicePort},
    problem::Problem,
};
use byrnie_model::{SpiffeId, TrustDomain};
use k8s_openapi::{
    api::{
        core::v1::{Node, Pod as KubePod, Service as KubeService},
        discovery::v1::EndpointSlice,
    },
    jiff::Timestamp,
};
use kube::{ResourceExt, core::PartialObjectMeta};

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its containers' named ports.
    pub named_ports: Vec<(String, u16)>,
    /// Its own addresses; none where they are its node's, and none when it has ended: they may be another's already.
    pub addresses: Vec<IpAddr>,
    /// Its ServiceAccount.
    pub service_account: String,
    /// Who it is in the mesh; `None`: it has no proxy.
    pub identity: Option<SpiffeId>,
    /// Whether it is to stay: neither ended nor being deleted.
    pub live: bool,
    /// Its containers are ready, as its kubelet said last, and nothing else decides (readiness gates). The pod is not
    /// ready all the same where nothing was heard of its node for a while.
    pub containers_ready: bool,
    /// When it was made.
    pub created: Timestamp,
    /// Its node.
    pub node: String,
    /// Its share of requests relative to the others' of its Services.
    pub weight: u16,
}

/// A Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// What it selects.
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its cluster addresses, given by the API server to nobody else.
    pub cluster_addresses: Vec<IpAddr>,
    /// Addresses that a load balancer has for it. (Not its `externalIPs`: anybody may write anybody's address there.)
    pub balancer_addresses: Vec<IpAddr>,
    /// Names of its ports, as endpoint slices call them.
    pub port_names: BTreeMap<u16, String>,
    /// Whether it asks for endpoints near its callers.
    pub prefers_zone: bool,
}

/// Part of a Service's endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// The Service it belongs to.
    pub service: String,
    /// Container ports by the name of the Service's port.
    pub ports: BTreeMap<String, u16>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceEndpoint {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The pod behind it, as the slice says; `None`: it says nothing.
    pub pod: Option<PodRef>,
    /// Takes new requests.
    pub ready: bool,
    /// Ends soon, still serves.
    pub serving: bool,
    /// Where it is.
    pub zone: String,
}

/// A pod in the slice's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Its name.
    pub name: String,
    /// Tells it from earlier and later ones of that name; empty: not said.
    pub uid: String,
}

/// A policy, compiled when it was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What it says and when it was made.
    pub candidate: Candidate,
    /// Its UID.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
}

/// A split, compiled when it was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// What it says, or what is wrong with it.
    pub shares: Result<Shares, Vec<Problem>>,
    /// When it was made.
    pub created: Timestamp,
    /// Its UID.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
}

/// Values of a Service's `trafficDistribution` that ask for the caller's zone, or even its node, which is in it.
const NEAR: [&str; 3] = ["PreferSameZone", "PreferClose", "PreferSameNode"];

/// A node's zone.
pub fn zone(node: &PartialObjectMeta<Node>) -> String {
    node.labels().get("topology.kubernetes.io/zone").cloned().unwrap_or_default()
}

impl Pod {
    /// Reads one; its identity is of `trust_domain`.
    pub fn read(pod: &KubePod, trust_domain: &TrustDomain) -> Self {
        let spec = pod.spec.as_ref();
        let account = cluster::service_account(pod);
        let namespace = pod.namespace().unwrap_or_default();
        let identity = cluster::is_meshed(pod).then(|| SpiffeId::new(trust_domain, &namespace, account).ok());
        let nobodys = cluster::has_ended(pod) || spec.is_some_and(|spec| spec.host_network == Some(true));
        let addresses = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
        Self {
            uid: pod.uid().unwrap_or_default(),
            labels: pod.labels().clone(),
            named_ports: cluster::named_ports(pod),
            addresses: addresses.filter(|_| !nobodys).filter_map(|ip| address(&ip.ip)).collect(),
            service_account: account.to_owned(),
            identity: identity.flatten(),
            live: cluster::is_live(pod),
            containers_ready: containers_ready(pod),
            created: created(pod),
            node: spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            // what is no weight was refused at admission; who writes it later is not heard
            weight: cluster::weight(pod).unwrap_or(1),
        }
    }

    /// As policies look at it.
    pub fn facts<'a>(&'a self, namespace: &'a str) -> PodFacts<'a> {
        PodFacts { namespace, labels: &self.labels, named_ports: &self.named_ports }
    }
}

impl Service {
    /// Reads one.
    pub fn read(service: &KubeService) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let distribution = spec.traffic_distribution.as_deref();
        let cluster_addresses = spec.cluster_ips.iter().flatten().filter_map(|ip| address(ip)).collect();
        let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
        let balancer_addresses =
            balancer.into_iter().flatten().filter_map(|ingress| address(ingress.ip.as_ref()?)).collect();
        let named = cluster::service_ports(service);
        let port_names = named.iter().map(|(name, port)| (port.port, name.clone())).collect();
        Self {
            ports: named.into_iter().map(|(_, port)| port).collect(),
            selector: spec.selector.unwrap_or_default(),
            cluster_addresses,
            balancer_addresses,
            port_names,
            prefers_zone: distribution.is_some_and(|it| NEAR.contains(&it)),
        }
    }

    /// One of its ports.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port)
    }

    /// As policies look at it.
    pub fn facts<'a>(&'a self, name: &'a str) -> ServiceFacts<'a> {
        ServiceFacts { name, selector: &self.selector, ports: &self.ports }
    }
}

impl Slice {
    /// Reads one; `None`: it belongs to no Service or is not of addresses.
    pub fn read(slice: &EndpointSlice) -> Option<Self> {
        let service = slice.labels().get("kubernetes.io/service-name")?.clone();
        if slice.address_type == "FQDN" {
            return None;
        }
        let ports = slice.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
        let ports = ports.filter_map(|port| {
            Some((port.name.clone().unwrap_or_default(), u16::try_from(port.port?).ok()?))
        });
        let endpoints = slice.endpoints.iter().flatten().map(|endpoint| {
            let said = endpoint.conditions.as_ref();
            let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
            SliceEndpoint {
                addresses: endpoint.addresses.iter().filter_map(|ip| address(ip)).collect(),
                pod: target.and_then(|target| {
                    Some(PodRef { name: target.name.clone()?, uid: target.uid.clone().unwrap_or_default() })
                }),
                ready: said.and_then(|said| said.ready).unwrap_or(true),
                serving: said.and_then(|said| said.serving).unwrap_or(false),
                zone: endpoint.zone.clone().unwrap_or_default(),
            }
        });
        Some(Self { service, ports: ports.collect(), endpoints: endpoints.collect() })
    }
}

impl Policy {
    /// Compiles one.
    pub fn read(policy: &MeshPolicy, trust_domain: &TrustDomain) -> Arc<Self> {
        Arc::new(Self {
            candidate: Candidate {
                compiled: compile::mesh_policy(policy, trust_domain),
                created: created(policy),
            },
            uid: policy.uid().unwrap_or_default(),
            generation: policy.metadata.generation.unwrap_or_default(),
        })
    }
}

impl Split {
    /// Compiles one.
    pub fn read(split: &TrafficSplit) -> Arc<Self> {
        Arc::new(Self {
            shares: compile::traffic_split(split),
            created: created(split),
            uid: split.uid().unwrap_or_default(),
            generation: split.metadata.generation.unwrap_or_default(),
        })
    }
}

fn containers_ready(pod: &KubePod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_ref());
    gates.is_none_or(Vec::is_empty)
        && conditions.into_iter().any(|c| c.type_ == "ContainersReady" && c.status == "True")
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// IPv4 in the clothes of IPv6 is IPv4.
fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

fn created(object: &impl ResourceExt) -> Timestamp {
    object.creation_timestamp().map_or(Timestamp::MAX, |time| time.0)
}
