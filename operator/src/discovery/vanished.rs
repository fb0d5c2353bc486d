//! Endpoints of a Service that vanished all at once when everything was listed anew. An API server that lost its last
//! minutes, or whose controllers have yet to catch up, must not take a Service down: those whose pods are known to
//! live are held for a moment. Pure; knows no task and no clock.
//!
//! A Service that is scaled to nothing loses its pods too, and what a watch says is never held back: neither waits.

use std::{collections::HashMap, time::Duration};

use byrnie_model::ObjectName;
use tokio::time::Instant;

use crate::index::{
    World,
    facts::{Slice, SliceEndpoint},
    world::{Change, Space},
};

/// For so long.
const HOLD: Duration = Duration::from_secs(10);
/// Fewer endpoints may well vanish at once.
const FEWEST: usize = 3;

/// See the module.
#[derive(Default)]
pub struct Vanished {
    /// By Service.
    held: HashMap<ObjectName, Held>,
}

struct Held {
    until: Instant,
    /// What each slice is now, if it is true.
    slices: HashMap<String, Option<Slice>>,
}

impl Vanished {
    /// When to [`Self::release`] next.
    pub fn until(&self) -> Option<Instant> {
        self.held.values().map(|held| held.until).min()
    }

    /// Before these changes are applied: takes out what is held. `listed`: they are the difference to a whole list.
    pub fn hold(&mut self, changes: Vec<Change>, listed: bool, world: &World, now: Instant) -> Vec<Change> {
        let (mut others, mut slices) =
            (Vec::new(), HashMap::<ObjectName, HashMap<String, Option<Slice>>>::new());
        for change in changes {
            match change {
                Change::Slice(name, slice) => match service_of(world, &name, slice.as_ref()) {
                    Some(service) => drop(slices.entry(service).or_default().insert(name.name, slice)),
                    None => others.push(Change::Slice(name, slice)),
                },
                other => others.push(other),
            }
        }
        for (service, mut slices) in slices {
            let before = self.held.remove(&service);
            if listed && is_empty(&slices) && vanishes(world, &service) {
                let until = before.map_or(now + HOLD, |held| held.until);
                others.extend(standing(world, &service));
                self.held.insert(service, Held { until, slices });
                continue;
            }
            for (name, slice) in before.into_iter().flat_map(|held| held.slices) {
                slices.entry(name).or_insert(slice);
            }
            others.extend(as_changes(&service, slices));
        }
        others
    }

    /// After changes were applied: what is not to be held any longer, because its time is over or its pods are gone.
    pub fn release(&mut self, world: &World, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        self.held.retain(|service, held| {
            let stays = held.until > now && stand(world, service) > 0;
            if stays {
                changes.extend(standing(world, service));
            } else {
                changes.extend(as_changes(service, std::mem::take(&mut held.slices)));
            }
            stays
        });
        changes
    }
}

fn service_of(world: &World, slice: &ObjectName, now: Option<&Slice>) -> Option<ObjectName> {
    let space = world.space(&slice.namespace);
    let service = now.map(|slice| &slice.service).or_else(|| space?.service_of_slice(&slice.name))?;
    Some(ObjectName::new(&slice.namespace, service))
}

fn is_empty(slices: &HashMap<String, Option<Slice>>) -> bool {
    slices.values().flatten().all(|slice| slice.endpoints.is_empty())
}

/// Whether there were enough endpoints, and one of them at least whose pod is known to live.
fn vanishes(world: &World, service: &ObjectName) -> bool {
    let Some(space) = world.space(&service.namespace) else { return false };
    let endpoints: usize = space.slices(&service.name).map(|slice| slice.endpoints.len()).sum();
    endpoints >= FEWEST && stand(world, service) > 0
}

/// Endpoints whose pods live. None where the Service is gone.
fn stand(world: &World, service: &ObjectName) -> usize {
    let Some(space) = world.space(&service.namespace) else { return 0 };
    if !space.services.contains_key(&service.name) {
        return 0;
    }
    let endpoints = space.slices(&service.name).flat_map(|slice| &slice.endpoints);
    endpoints.filter(|endpoint| lives(space, endpoint)).count()
}

/// The Service's slices with those endpoints alone, where that is another than now.
fn standing(world: &World, service: &ObjectName) -> Vec<Change> {
    let Some(space) = world.space(&service.namespace) else { return Vec::new() };
    let slices = space.slices_by_name(&service.name).filter_map(|(name, slice)| {
        let mut left = slice.clone();
        left.endpoints.retain(|endpoint| lives(space, endpoint));
        let name = ObjectName::new(&service.namespace, name);
        (left != *slice).then_some(Change::Slice(name, Some(left)))
    });
    slices.collect()
}

fn lives(space: &Space, endpoint: &SliceEndpoint) -> bool {
    endpoint.pod.as_ref().is_some_and(|named| {
        let pod = space.pods.get(&named.name);
        pod.is_some_and(|pod| pod.live && (named.uid.is_empty() || named.uid == pod.uid))
    })
}

fn as_changes(service: &ObjectName, slices: HashMap<String, Option<Slice>>) -> impl Iterator<Item = Change> {
    let namespace = service.namespace.clone();
    slices.into_iter().map(move |(name, slice)| Change::Slice(ObjectName::new(&namespace, name), slice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{
        destination::destination,
        fixture::{self, pod, service, slice},
    };

    const PODS: [(&str, &str); 3] = [("pay-1", "10.1.0.1"), ("pay-2", "10.1.0.2"), ("pay-3", "10.1.0.3")];

    struct Rig {
        world: World,
        vanished: Vanished,
        now: Instant,
    }

    impl Rig {
        fn new(pods: usize) -> Self {
            let mut yaml = service("pay", "pay", "10.96.0.1");
            PODS[..pods].iter().for_each(|(name, ip)| yaml += &pod(name, "pay", ip));
            yaml += &slice(
                "pay",
                &PODS[..pods].iter().map(|(name, ip)| (*name, *ip, "ready")).collect::<Vec<_>>(),
            );
            Self { world: fixture::world(&yaml), vanished: Vanished::default(), now: Instant::now() }
        }

        fn hear(&mut self, changes: Vec<Change>, listed: bool) -> usize {
            for change in self.vanished.hold(changes, listed, &self.world, self.now) {
                self.world.apply(change);
            }
            self.wait(Duration::ZERO)
        }

        fn wait(&mut self, time: Duration) -> usize {
            self.now += time;
            for change in self.vanished.release(&self.world, self.now) {
                self.world.apply(change);
            }
            let there = destination(&self.world, "10.96.0.1:80".parse().unwrap()).destination;
            match there {
                byrnie_model::Destination::Service(called) => called.backends[0].endpoints.len(),
                _ => 0,
            }
        }
    }

    fn none() -> Vec<Change> {
        vec![Change::Slice(ObjectName::new("shop", "pay-abc"), None)]
    }

    fn empty() -> Vec<Change> {
        fixture::changes(&slice("pay", &[]))
    }

    fn no_pod(name: &str) -> Vec<Change> {
        vec![Change::Pod(ObjectName::new("shop", name), None)]
    }

    #[test]
    fn endpoints_that_vanish_in_a_list_are_held_for_a_moment() {
        for gone in [none, empty] {
            let mut rig = Rig::new(3);
            assert_eq!(rig.hear(gone(), true), 3);
            assert_eq!(rig.wait(HOLD / 2), 3);
            assert_eq!(rig.hear(gone(), true), 3, "listed once more");
            assert_eq!(rig.wait(HOLD / 2), 0, "another list makes it no longer");
            assert_eq!(rig.vanished.until(), None);
        }
    }

    #[test]
    fn what_a_watch_says_is_never_held() {
        for gone in [none, empty] {
            assert_eq!(Rig::new(3).hear(gone(), false), 0);
            let mut rig = Rig::new(3);
            rig.hear(none(), true);
            assert_eq!(rig.hear(gone(), false), 0, "not even while it is held");
        }
    }

    #[test]
    fn two_may_well_vanish_at_once() {
        assert_eq!(Rig::new(2).hear(none(), true), 0);
    }

    #[test]
    fn a_service_without_pods_is_empty_at_once() {
        let mut rig = Rig::new(3);
        let pods = PODS.iter().flat_map(|(name, _)| no_pod(name));
        assert_eq!(rig.hear(pods.chain(none()).collect(), true), 0);

        let mut rig = Rig::new(3);
        assert_eq!(rig.hear(none(), true), 3);
        assert_eq!(rig.hear(no_pod("pay-1"), false), 2, "word of the pods comes later");
        assert_eq!(rig.hear(no_pod("pay-2"), true), 1);
        assert_eq!(rig.hear(no_pod("pay-3"), false), 0);
        assert_eq!(rig.vanished.until(), None);
    }

    #[test]
    fn a_service_that_is_gone_holds_nothing() {
        let mut rig = Rig::new(3);
        rig.hear(none(), true);
        let no_service = Change::Service(ObjectName::new("shop", "pay"), None);
        assert_eq!(rig.hear(vec![no_service], true), 0);
        assert_eq!(rig.vanished.until(), None);
    }

    #[test]
    fn endpoints_that_come_back_are_as_they_come() {
        let mut rig = Rig::new(3);
        rig.hear(none(), true);
        assert_eq!(rig.hear(fixture::changes(&slice("pay", &[("pay-1", "10.1.0.1", "ready")])), true), 1);
        assert_eq!((rig.vanished.until(), rig.wait(HOLD)), (None, 1));
    }
}
