//! What proxies are told: topics, and what stands under them now, ready to be sent to any number of them.

use std::net::SocketAddr;

use byrnie_api::{
    encode,
    v1::{self, PolicyGeneration, to_proxy::Resource},
};
use byrnie_model::ObjectName;

use super::metrics::Sort;
use crate::index::{World, destination, workload, world::Dependency};

/// What a message can be about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Roots and signer.
    Trust,
    /// A pod: who may call it.
    Workload(PodKey),
    /// An address: what is there.
    Destination(SocketAddr),
}

/// One pod, told from earlier and later ones of its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodKey {
    /// Its name.
    pub name: ObjectName,
    /// Its UID.
    pub uid: String,
}

/// What is to be known about a topic.
#[derive(Debug)]
pub struct Content {
    /// The message.
    pub resource: Resource,
}

impl Content {
    /// What it proves to have this in force.
    pub fn generations(&self) -> &[PolicyGeneration] {
        match &self.resource {
            Resource::Workload(workload) => &workload.generations,
            Resource::Destination(destination) => &destination.generations,
            Resource::Trust(_) => &[],
        }
    }

    /// The epoch, where it is trust.
    pub fn epoch(&self) -> Option<u64> {
        match &self.resource {
            Resource::Trust(trust) => Some(trust.epoch),
            Resource::Workload(_) | Resource::Destination(_) => None,
        }
    }

    /// For metrics.
    pub fn sort(&self) -> Sort {
        match &self.resource {
            Resource::Trust(_) => Sort::Trust,
            Resource::Workload(_) => Sort::Workload,
            Resource::Destination(_) => Sort::Destination,
        }
    }
}

/// What the world says about a topic, and what of the world that depends on. `None`: there is no such thing, or not
/// the world knows about it.
pub fn make(world: &World, topic: &Topic) -> (Option<Resource>, Vec<Dependency>) {
    match topic {
        Topic::Trust => (None, Vec::new()),
        Topic::Workload(pod) => (workload_message(world, pod), workload::dependencies(&pod.name)),
        Topic::Destination(address) => {
            let snapshot = destination::destination(world, *address);
            let mut message = encode::destination(*address, &snapshot.destination);
            message.generations = snapshot.generations;
            (Some(Resource::Destination(message)), snapshot.dependencies)
        }
    }
}

fn workload_message(world: &World, pod: &PodKey) -> Option<Resource> {
    world.pod(&pod.name).filter(|known| known.uid == pod.uid)?;
    let snapshot = workload::workload(world, &pod.name)?;
    let mut message = encode::workload(&snapshot.workload);
    message.generations = snapshot.generations;
    Some(Resource::Workload(message))
}

/// Trust as content.
pub fn trust(trust: &v1::Trust) -> Resource {
    Resource::Trust(trust.clone())
}
