//! The snapshot of one called address: a Service with its routes and endpoints, a pod, or nothing of ours.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use byrnie_api::v1::PolicyGeneration;
use byrnie_crds::{
    compile::Traffic,
    govern::{ServicePort, TargetPort, of_calls},
    names,
};
use byrnie_model::{
    Backend, Destination, Endpoint, Mirror, ObjectName, Protocol, Route, Service as Called,
    ServicePort as PortName, WeightedBackend,
};

use super::{
    facts::{Pod, Service, SliceEndpoint},
    split,
    workload::{generation, split_generation},
    world::{Dependency, Space, World},
};

/// What is at an address, and what went into it.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// For the proxy.
    pub destination: Destination,
    /// The MeshPolicies with `traffic` and the TrafficSplit that made it.
    pub generations: Vec<PolicyGeneration>,
    /// What it was made from.
    pub dependencies: Vec<Dependency>,
}

/// Nobody is called there by way of a proxy: they are the proxy's own.
const OWN_PORTS: [u16; 3] = [names::OUTBOUND_PORT, names::INBOUND_PORT, names::PROXY_ADMIN_PORT];

/// What is at an address.
pub fn destination(world: &World, address: SocketAddr) -> Snapshot {
    let ip = address.ip().to_canonical();
    let mut making = Making { world, generations: Vec::new(), dependencies: vec![Dependency::Address(ip)] };
    let found = making.service(ip, address.port()).or_else(|| making.pod(ip, address.port()));
    Snapshot {
        destination: found.unwrap_or(Destination::Passthrough),
        generations: making.generations,
        dependencies: making.dependencies,
    }
}

/// What a Service does for the calls to another one.
enum Part {
    Share(u32),
    Failover,
    Override,
    Mirror(u32),
}

/// A snapshot on its way.
struct Making<'a> {
    world: &'a World,
    generations: Vec<PolicyGeneration>,
    dependencies: Vec<Dependency>,
}

impl<'a> Making<'a> {
    fn service(&mut self, ip: IpAddr, port: u16) -> Option<Destination> {
        let (name, space, service) = self.world.service_at(ip, port)?;
        let port = service.port(port)?;
        self.dependencies.extend([Dependency::Routing(name.namespace.clone()), Dependency::Zones]);
        let traffic = self.traffic(space, &service.selector, &[&name.name]).cloned().unwrap_or_default();
        let shares = match split::in_charge(space, &name.name) {
            Some((split_name, split)) => {
                self.generations.push(split_generation(&name.namespace, split_name, split));
                split.shares.as_ref().map(|shares| shares.backends.clone()).unwrap_or_default()
            }
            None => vec![(name.name.clone(), 1)],
        };
        let mut route = Route { timeouts: traffic.timeouts, faults: traffic.faults, ..Route::default() };
        let mut backends = Vec::new();
        let shares = shares.into_iter().map(|(backend, weight)| (backend, Part::Share(weight)));
        let failover = traffic.failover.iter().map(|backend| (backend.clone(), Part::Failover));
        let overrides = traffic.overrides.iter().map(|backend| (backend.clone(), Part::Override));
        // A policy may be about the whole namespace: nobody is a mirror of oneself.
        let mirrors = traffic.mirrors.iter().filter(|(backend, _)| *backend != name.name);
        let mirrors = mirrors.map(|(backend, percent)| (backend.clone(), Part::Mirror(*percent)));
        for (backend, part) in shares.chain(failover).chain(overrides).chain(mirrors) {
            // Without this port it takes no part; its share goes to the others.
            let Some(service) = space.services.get(&backend).filter(|s| s.port(port.port).is_some()) else {
                continue;
            };
            let of = PortName { service: ObjectName::new(&name.namespace, backend), port: port.port };
            let known = backends.iter().position(|backend: &Backend| backend.name == of);
            let backend = known.unwrap_or_else(|| {
                let endpoints = self.endpoints(space, &of.service, service, port.port, ip.is_ipv4());
                backends.push(Backend { name: of, endpoints: endpoints.into() });
                backends.len() - 1
            });
            match part {
                Part::Share(weight) => route.backends.push(WeightedBackend { backend, weight }),
                Part::Failover => route.failover.push(backend),
                Part::Override => route.overrides.push(backend),
                Part::Mirror(percent) => route.mirrors.push(Mirror { backend, percent }),
            }
        }
        Some(Destination::Service(Called {
            name: PortName { service: name.clone(), port: port.port },
            protocol: spoken(&traffic, space, &name.name, service, port),
            routes: vec![route],
            backends,
            traffic: byrnie_model::Traffic {
                prefer_zone: traffic.prefer_zone.unwrap_or(service.prefers_zone),
                ..traffic.calls
            },
        }))
    }

    fn pod(&mut self, ip: IpAddr, port: u16) -> Option<Destination> {
        let (name, pod) = self.world.pod_at(ip).filter(|_| !OWN_PORTS.contains(&port))?;
        let space = self.world.space(&name.namespace)?;
        self.dependencies.extend([Dependency::Routing(name.namespace.clone()), Dependency::Zones]);
        let facts = pod.facts(&name.namespace);
        let selecting = space.services.iter().filter(|(name, service)| service.facts(name).selects(&facts));
        let here: Vec<(&str, &ServicePort)> = selecting
            .flat_map(|(name, service)| service.ports.iter().map(|port| (name.as_str(), port)))
            .filter(|(_, of_service)| facts.port(&of_service.target) == Some(port))
            .collect();
        let services: Vec<&str> = here.iter().map(|(name, _)| *name).collect();
        let traffic = self.traffic(space, &pod.labels, &services).cloned().unwrap_or_default();
        let declared = here.iter().map(|(_, port)| port.protocol).find(|spoken| *spoken != Protocol::Detect);
        Some(Destination::Pod {
            protocol: by_policy(&traffic, port).or(declared).unwrap_or_default(),
            endpoint: Endpoint {
                address: SocketAddr::new(ip, port),
                identity: pod.identity.clone(),
                pod_uid: pod.uid.clone(),
                pod_name: name.name.clone(),
                zone: self.world.zone(&pod.node).to_owned(),
                weight: pod.weight,
            },
            timeouts: traffic.timeouts,
            traffic: traffic.calls,
        })
    }

    /// The `traffic` in charge of calls to these Services or to pods with these labels. All that might be are noted.
    fn traffic(
        &mut self,
        space: &'a Space,
        labels: &BTreeMap<String, String>,
        services: &[&str],
    ) -> Option<&'a Traffic> {
        let policies = space.policies.values().map(|policy| (policy, &policy.candidate));
        let found = of_calls(policies, labels, services);
        for (policy, name, _) in &found {
            let generation = generation(name, policy);
            if !self.generations.contains(&generation) {
                self.generations.push(generation);
            }
        }
        found.first().map(|(.., traffic)| *traffic)
    }

    /// Ready endpoints of a Service's port; where none is ready, those that still serve while they end; where there are
    /// none of those either, those whose containers are ready on a node that was not heard of. When the API server comes
    /// back after a minute, that is every node, until its kubelet has spoken.
    fn endpoints(
        &mut self,
        space: &Space,
        name: &ObjectName,
        service: &Service,
        port: u16,
        ipv4: bool,
    ) -> Vec<Endpoint> {
        self.dependencies.push(Dependency::Endpoints(name.clone()));
        let Some(port_name) = service.port_names.get(&port) else { return Vec::new() };
        let world = self.world;
        let stranded = |endpoint: &SliceEndpoint| {
            let named = endpoint.pod.as_ref().map(|pod| ObjectName::new(&name.namespace, &pod.name));
            named.and_then(|name| world.pod(&name)).is_some_and(|pod| pod.live && pod.containers_ready)
        };
        let mut pick = |usable: &dyn Fn(&SliceEndpoint) -> bool| {
            let mut found = Vec::new();
            for slice in space.slices(&name.name) {
                let Some(target) = slice.ports.get(port_name).filter(|port| !OWN_PORTS.contains(port)) else {
                    continue;
                };
                for endpoint in slice.endpoints.iter().filter(|endpoint| usable(endpoint)) {
                    let Some(ip) = endpoint.addresses.iter().find(|ip| ip.is_ipv4() == ipv4) else {
                        continue;
                    };
                    found.extend(self.endpoint(&name.namespace, endpoint, SocketAddr::new(*ip, *target)));
                }
            }
            // In an order of their own, so that the same endpoints are the same message.
            found.sort_by_key(|endpoint: &Endpoint| endpoint.address);
            found.dedup_by_key(|endpoint| endpoint.address);
            found
        };
        let mut found = pick(&|endpoint| endpoint.ready);
        if found.is_empty() {
            found = pick(&|endpoint| endpoint.serving);
        }
        if found.is_empty() {
            found = pick(&stranded);
        }
        found
    }

    /// `None`: the slice names a pod that is not known yet, or not any more. Who it is would be a guess, and it must
    /// not be called in plaintext when it has a proxy.
    fn endpoint(
        &mut self,
        namespace: &str,
        endpoint: &SliceEndpoint,
        address: SocketAddr,
    ) -> Option<Endpoint> {
        let pod = if let Some(named) = &endpoint.pod {
            let name = ObjectName::new(namespace, &named.name);
            let pod = self.world.pod(&name)?;
            (named.uid.is_empty() || named.uid == pod.uid).then_some(())?;
            Some((named.name.as_str(), pod))
        } else {
            self.dependencies.push(Dependency::Address(address.ip()));
            self.world.pod_at(address.ip()).map(|(name, pod)| (name.name.as_str(), pod))
        };
        let zone = match (&endpoint.zone, pod) {
            (zone, Some((_, pod))) if zone.is_empty() => self.world.zone(&pod.node),
            (zone, _) => zone,
        };
        Some(Endpoint {
            address,
            identity: pod.and_then(|(_, pod): (&str, &Pod)| pod.identity.clone()),
            pod_uid: pod.map(|(_, pod)| pod.uid.clone()).unwrap_or_default(),
            pod_name: pod.map(|(name, _)| name.to_owned()).unwrap_or_default(),
            zone: zone.to_owned(),
            weight: pod.map_or(1, |(_, pod)| pod.weight),
        })
    }
}

fn by_policy(traffic: &Traffic, container_port: u16) -> Option<Protocol> {
    traffic.protocols.iter().find(|(port, _)| *port == container_port).map(|(_, protocol)| *protocol)
}

/// What is spoken on a Service's port: as the policy says of the container ports behind it, or else as declared.
fn spoken(traffic: &Traffic, space: &Space, name: &str, service: &Service, port: &ServicePort) -> Protocol {
    let said = match &port.target {
        TargetPort::Number(number) => by_policy(traffic, *number),
        TargetPort::Name(_) => service.port_names.get(&port.port).and_then(|port_name| {
            let mut numbers = space.slices(name).filter_map(|slice| slice.ports.get(port_name));
            numbers.find_map(|number| by_policy(traffic, *number))
        }),
    };
    said.unwrap_or(port.protocol)
}
