//! The cluster as facts, by namespace, and what depends on what: each change says which snapshots may now be others.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use byrnie_model::{MtlsMode, ObjectName, TrustDomain};

use super::facts::{Pod, Policy, Service, Slice, SliceEndpoint, Split};

/// All facts.
#[derive(Debug)]
pub struct World {
    /// The trust domain of all identities.
    pub trust_domain: TrustDomain,
    namespaces: HashMap<String, Space>,
    zones: HashMap<String, String>,
    cluster_addresses: Addresses,
    pod_addresses: Addresses,
    balancer_addresses: Addresses,
}

/// A namespace's facts, by name.
#[derive(Debug, Default)]
pub struct Space {
    /// Its own default for plaintext.
    pub mode: MtlsMode,
    /// Its pods.
    pub pods: HashMap<String, Pod>,
    /// Its Services.
    pub services: BTreeMap<String, Service>,
    /// Its policies.
    pub policies: BTreeMap<String, Arc<Policy>>,
    /// Its splits.
    pub splits: BTreeMap<String, Arc<Split>>,
    slices: HashMap<String, BTreeMap<String, Slice>>,
    service_of_slice: HashMap<String, String>,
}

/// One fact, new or gone.
#[derive(Debug)]
pub enum Change {
    /// A namespace's own default for plaintext.
    Namespace(String, Option<MtlsMode>),
    /// A node's zone.
    Node(String, Option<String>),
    /// A pod.
    Pod(ObjectName, Option<Pod>),
    /// A Service.
    Service(ObjectName, Option<Service>),
    /// An endpoint slice.
    Slice(ObjectName, Option<Slice>),
    /// A policy.
    Policy(ObjectName, Option<Arc<Policy>>),
    /// A split.
    Split(ObjectName, Option<Arc<Split>>),
}

/// What a snapshot was made from, and what a change touches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dependency {
    /// The zones of nodes.
    Zones,
    /// What the pods of a namespace are governed by: its default, policies and Services.
    Governance(String),
    /// Where calls to a namespace's Services go: its Services, splits, and policies with `traffic`.
    Routing(String),
    /// One pod.
    Pod(ObjectName),
    /// The endpoints of one Service.
    Endpoints(ObjectName),
    /// Whose an address is, and who is there.
    Address(IpAddr),
}

/// Who is at which address; several where one is on its way out.
type Addresses = HashMap<IpAddr, Vec<ObjectName>>;

impl World {
    /// Without anything in it.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            namespaces: HashMap::new(),
            zones: HashMap::new(),
            cluster_addresses: HashMap::new(),
            pod_addresses: HashMap::new(),
            balancer_addresses: HashMap::new(),
        }
    }

    /// A namespace's facts.
    pub fn space(&self, namespace: &str) -> Option<&Space> {
        self.namespaces.get(namespace)
    }

    /// All namespaces.
    pub fn spaces(&self) -> impl Iterator<Item = (&String, &Space)> {
        self.namespaces.iter()
    }

    /// The names of everything in namespaces that `list` lists of one.
    pub fn names<'a, N: IntoIterator<Item = &'a String> + 'a>(
        &'a self,
        list: impl Fn(&'a Space) -> N + 'a,
    ) -> impl Iterator<Item = ObjectName> + 'a {
        self.namespaces.iter().flat_map(move |(namespace, space)| {
            list(space).into_iter().map(move |name| ObjectName::new(namespace, name))
        })
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &String> {
        self.zones.keys()
    }

    /// A pod.
    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.space(&name.namespace)?.pods.get(&name.name)
    }

    /// The Service that answers at an address and port: by its cluster address, or else by a load balancer's.
    pub fn service_at(&self, address: IpAddr, port: u16) -> Option<(&ObjectName, &Space, &Service)> {
        let find = |addresses: &'_ Addresses| -> Option<usize> {
            addresses.get(&address)?.iter().position(|name| self.has_port(name, port))
        };
        let books = [&self.cluster_addresses, &self.balancer_addresses];
        // Nobody takes over what is a pod's or a Service's own address.
        let own = self.cluster_addresses.contains_key(&address) || self.pod_addresses.contains_key(&address);
        let (book, at) =
            books.into_iter().take(if own { 1 } else { 2 }).find_map(|book| Some((book, find(book)?)))?;
        let name = &book[&address][at];
        let space = self.space(&name.namespace)?;
        Some((name, space, space.services.get(&name.name)?))
    }

    fn has_port(&self, service: &ObjectName, port: u16) -> bool {
        let found = self.space(&service.namespace).and_then(|space| space.services.get(&service.name));
        found.is_some_and(|service| service.port(port).is_some())
    }

    /// The pod at an address. While it passes from one to the next: the one that stays, then the younger.
    pub fn pod_at(&self, address: IpAddr) -> Option<(&ObjectName, &Pod)> {
        let here = self.pod_addresses.get(&address)?.iter();
        let pods = here.filter_map(|name| Some((name, self.pod(name)?)));
        pods.max_by_key(|(name, pod)| (pod.live, pod.created, *name))
    }

    /// A node's zone.
    pub fn zone(&self, node: &str) -> &str {
        self.zones.get(node).map_or("", String::as_str)
    }

    /// Takes a change in. What it touches; nothing when it says what was known already.
    pub fn apply(&mut self, change: Change) -> Vec<Dependency> {
        match change {
            Change::Node(name, zone) => {
                let touched = vec![Dependency::Zones];
                if put(&mut self.zones, name, zone).is_some() { touched } else { Vec::new() }
            }
            Change::Namespace(name, mode) => {
                let space = self.namespaces.entry(name.clone()).or_default();
                let before = std::mem::replace(&mut space.mode, mode.unwrap_or_default());
                if before == space.mode { Vec::new() } else { vec![Dependency::Governance(name)] }
            }
            Change::Pod(name, pod) => self.pod_changed(name, pod),
            Change::Service(name, service) => self.service_changed(name, service),
            Change::Slice(name, slice) => self.slice_changed(name, slice),
            Change::Policy(name, policy) => {
                let routes = |policy: Option<&Arc<Policy>>| {
                    policy.is_some_and(|policy| policy.candidate.compiled.traffic.is_some())
                };
                let space = self.namespaces.entry(name.namespace.clone()).or_default();
                let now = routes(policy.as_ref());
                match put_sorted(&mut space.policies, name.name, policy) {
                    None => Vec::new(),
                    Some(Replaced(before)) if now || routes(before.as_ref()) => {
                        vec![
                            Dependency::Governance(name.namespace.clone()),
                            Dependency::Routing(name.namespace),
                        ]
                    }
                    Some(_) => vec![Dependency::Governance(name.namespace)],
                }
            }
            Change::Split(name, split) => {
                let space = self.namespaces.entry(name.namespace.clone()).or_default();
                let touched = vec![Dependency::Routing(name.namespace)];
                if put_sorted(&mut space.splits, name.name, split).is_some() { touched } else { Vec::new() }
            }
        }
    }

    fn pod_changed(&mut self, name: ObjectName, pod: Option<Pod>) -> Vec<Dependency> {
        let now = pod.as_ref().map(|pod| pod.addresses.clone()).unwrap_or_default();
        let space = self.namespaces.entry(name.namespace.clone()).or_default();
        let Some(Replaced(before)) = put(&mut space.pods, name.name.clone(), pod) else { return Vec::new() };
        let mut touched: Vec<_> = space
            .slices
            .iter()
            .filter(|(_, slices)| {
                slices.values().any(|slice| slice.endpoints.iter().any(|e| e.is_of(&name.name)))
            })
            .map(|(service, _)| Dependency::Endpoints(ObjectName::new(&name.namespace, service)))
            .collect();
        let before = before.map(|pod| pod.addresses).unwrap_or_default();
        resettle(&mut self.pod_addresses, &name, &before, &now);
        touched.extend(before.into_iter().chain(now).map(Dependency::Address));
        touched.push(Dependency::Pod(name));
        touched
    }

    fn service_changed(&mut self, name: ObjectName, service: Option<Service>) -> Vec<Dependency> {
        let addresses = |service: Option<&Service>| {
            service.map(|s| (s.cluster_addresses.clone(), s.balancer_addresses.clone())).unwrap_or_default()
        };
        let (cluster, balancer) = addresses(service.as_ref());
        let space = self.namespaces.entry(name.namespace.clone()).or_default();
        let Some(Replaced(before)) = put_sorted(&mut space.services, name.name.clone(), service) else {
            return Vec::new();
        };
        let (old_cluster, old_balancer) = addresses(before.as_ref());
        resettle(&mut self.cluster_addresses, &name, &old_cluster, &cluster);
        resettle(&mut self.balancer_addresses, &name, &old_balancer, &balancer);
        let all = [cluster, balancer, old_cluster, old_balancer].into_iter().flatten();
        let mut touched: Vec<_> = all.map(Dependency::Address).collect();
        touched.push(Dependency::Governance(name.namespace.clone()));
        touched.push(Dependency::Routing(name.namespace));
        touched
    }

    fn slice_changed(&mut self, name: ObjectName, slice: Option<Slice>) -> Vec<Dependency> {
        let space = self.namespaces.entry(name.namespace.clone()).or_default();
        let service = slice.as_ref().map(|slice| slice.service.clone());
        let mut touched = Vec::new();
        let mut touch =
            |service: &str| touched.push(Dependency::Endpoints(ObjectName::new(&name.namespace, service)));
        if let Some(old) =
            space.service_of_slice.get(&name.name).filter(|old| service.as_ref() != Some(*old)).cloned()
        {
            touch(&old);
            space.service_of_slice.remove(&name.name);
            if let Some(slices) = space.slices.get_mut(&old) {
                slices.remove(&name.name);
                if slices.is_empty() {
                    space.slices.remove(&old);
                }
            }
        }
        if let Some(slice) = slice {
            space.service_of_slice.insert(name.name.clone(), slice.service.clone());
            let service = slice.service.clone();
            if put_sorted(space.slices.entry(service.clone()).or_default(), name.name, Some(slice)).is_some()
            {
                touch(&service);
            }
        }
        touched
    }
}

impl Space {
    /// The slices of one of its Services.
    pub fn slices(&self, service: &str) -> impl Iterator<Item = &Slice> {
        self.slices.get(service).into_iter().flat_map(BTreeMap::values)
    }

    /// As [`Self::slices`], with their names.
    pub fn slices_by_name(&self, service: &str) -> impl Iterator<Item = (&String, &Slice)> {
        self.slices.get(service).into_iter().flatten()
    }

    /// The Service that one of its slices belongs to.
    pub fn service_of_slice(&self, slice: &str) -> Option<&String> {
        self.service_of_slice.get(slice)
    }

    /// The names of all its slices.
    pub fn slice_names(&self) -> impl Iterator<Item = &String> {
        self.service_of_slice.keys()
    }
}

impl SliceEndpoint {
    fn is_of(&self, pod: &str) -> bool {
        self.pod.as_ref().is_some_and(|named| named.name == pod)
    }
}

/// What was there before a change, where that was something else.
struct Replaced<T>(Option<T>);

/// `None`: the same was there already.
fn put<T: PartialEq>(map: &mut HashMap<String, T>, name: String, value: Option<T>) -> Option<Replaced<T>> {
    match value {
        Some(new) if map.get(&name) == Some(&new) => None,
        Some(new) => Some(Replaced(map.insert(name, new))),
        None => map.remove(&name).map(|old| Replaced(Some(old))),
    }
}

/// As [`put`].
fn put_sorted<T: PartialEq>(
    map: &mut BTreeMap<String, T>,
    name: String,
    value: Option<T>,
) -> Option<Replaced<T>> {
    match value {
        Some(new) if map.get(&name) == Some(&new) => None,
        Some(new) => Some(Replaced(map.insert(name, new))),
        None => map.remove(&name).map(|old| Replaced(Some(old))),
    }
}

fn resettle(book: &mut Addresses, name: &ObjectName, before: &[IpAddr], now: &[IpAddr]) {
    for address in before.iter().filter(|address| !now.contains(address)) {
        if let Some(here) = book.get_mut(address) {
            here.retain(|other| other != name);
            if here.is_empty() {
                book.remove(address);
            }
        }
    }
    for address in now {
        let here = book.entry(*address).or_default();
        if !here.contains(name) {
            here.push(name.clone());
            here.sort();
        }
    }
}
