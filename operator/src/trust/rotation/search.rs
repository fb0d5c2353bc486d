//! Every order of events, up to a few proxies: the real [`step`](super::step) in a small world of pods, certificates on
//! their way, two leaders of which one may be late, processes that end, keys that get lost and states that are restored.
//!
//! The world keeps to what the rest of the system promises: issuance reads MeshTrust anew each time (C1), a proxy
//! ignores lower epochs (P1) and is ready only with the bundle that came with its certificate (P3), and once a phase
//! has lasted [`DWELL`](super::DWELL) nothing from before it is on its way. One [`Broken`] promise, or one [`Guard`] less, and the
//! search finds what goes wrong.

mod world;

use std::collections::{HashMap, VecDeque};

use self::world::{Broken, Faults, World};
use super::guard::{Guard, Guards};

/// What was found.
#[derive(Debug)]
struct Found {
    states: usize,
    violation: Option<String>,
    /// Some state from which the goal cannot be reached.
    stuck: Option<String>,
}

/// Looks at every state that can be reached; a violation comes with the shortest way to it.
fn search(first: World, limit: usize) -> Found {
    let mut seen = HashMap::from([(first.clone(), 0)]);
    let mut ways: Vec<(usize, String)> = vec![(0, String::new())];
    let mut before: Vec<Vec<u32>> = vec![Vec::new()];
    let mut goals = Vec::new();
    let mut todo = VecDeque::from([(0, first)]);
    while let Some((at, world)) = todo.pop_front() {
        if world.is_goal() {
            goals.push(at);
        }
        for (event, next) in world.events() {
            let next = match next {
                Ok(next) => next.canonical(),
                Err(violation) => {
                    let way = way(&ways, at);
                    let violation = Some(format!("{violation}\n  after: {way} ; {event}"));
                    return Found { states: seen.len(), violation, stuck: None };
                }
            };
            let number = seen.len();
            let to = *seen.entry(next.clone()).or_insert_with(|| {
                ways.push((at, event));
                before.push(Vec::new());
                todo.push_back((number, next));
                number
            });
            before[to].push(u32::try_from(at).unwrap());
            assert!(seen.len() <= limit, "more than {limit} states");
        }
    }
    let states = seen.len();
    let mut ends_well = vec![false; states];
    while let Some(at) = goals.pop() {
        if !std::mem::replace(&mut ends_well[at], true) {
            goals.extend(before[at].iter().map(|&from| from as usize));
        }
    }
    let stuck = ends_well.iter().position(|well| !well).map(|at| way(&ways, at));
    Found { states, violation: None, stuck }
}

fn way(ways: &[(usize, String)], mut at: usize) -> String {
    let mut events = Vec::new();
    while at != 0 {
        events.push(ways[at].1.as_str());
        at = ways[at].0;
    }
    events.reverse();
    events.join(" ; ")
}

fn holds(name: &str, world: World) {
    let found = search(world, 6_000_000);
    println!("{name}: {} states", found.states);
    assert_eq!(found.violation, None, "{name}");
    assert_eq!(found.stuck, None, "{name}: from here nothing leads to an end");
}

#[test]
fn a_rotation_breaks_nothing_in_any_order() {
    holds("two proxies, two leaders", World::new(2, 2, Faults::NONE));
    holds("three proxies, a leader", World::new(3, 1, Faults::NONE));
    holds("two proxies, and one joins", World::new(2, 1, Faults { joins: 1, ..Faults::NONE }));
    holds(
        "a proxy restarts, and one joins",
        World::new(1, 1, Faults { joins: 1, restarts: 1, ..Faults::NONE }),
    );
}

#[test]
fn a_rotation_can_be_taken_back_at_any_time() {
    holds("abort", World::new(2, 1, Faults { aborts: 1, ..Faults::NONE }));
    holds("abort, and two leaders", World::new(1, 2, Faults { aborts: 1, ..Faults::NONE }));
    holds("abort, and a restart", World::new(2, 1, Faults { aborts: 1, restarts: 1, ..Faults::NONE }));
}

#[test]
fn a_key_can_be_lost_at_any_time() {
    holds("lost key", World::new(2, 1, Faults { losses: 1, restarts: 1, ..Faults::NONE }));
    holds("two lost keys", World::new(1, 1, Faults { losses: 2, ..Faults::NONE }));
}

#[test]
fn a_root_can_be_compromised_at_any_time() {
    holds("compromised", World::new(2, 1, Faults { compromises: 1, ..Faults::NONE }));
    holds("compromised, and two leaders", World::new(1, 2, Faults { compromises: 1, ..Faults::NONE }));
    holds(
        "compromised, and a lost key",
        World::new(1, 1, Faults { compromises: 1, losses: 1, ..Faults::NONE }),
    );
}

#[test]
fn an_older_state_can_be_restored_at_any_time() {
    let restored = World::new(2, 1, Faults { restores: 1, ..Faults::NONE });
    holds("restored", restored.clone());
    let mut known = restored;
    known.remembers = true;
    holds("restored, and the leader knows better", known);
}

/// Each guard keeps something from happening, which the search shows when it is taken out.
#[test]
fn every_guard_is_needed() {
    let joins = Faults { joins: 1, ..Faults::NONE };
    let restores = Faults { restores: 1, ..Faults::NONE };
    let losses = Faults { losses: 1, ..Faults::NONE };
    for (guard, faults, violated) in [
        (Guard::Stage, Faults::NONE, "I1"),
        (Guard::BundlesAcked, Faults::NONE, "I1"),
        (Guard::LeavesAcked, Faults::NONE, "I3"),
        (Guard::Dwell, joins, "I1"),
        (Guard::Complete, joins, "I1"),
        (Guard::Keys, losses, "stuck"),
        (Guard::Recovery, restores, "I1"),
        (Guard::Freeze, restores, "I1"),
        (Guard::Together, restores, "I1"),
    ] {
        let mut world = World::new(2, 1, faults);
        world.guards = Guards::without(guard);
        let found = search(world, 6_000_000);
        let what = found.violation.or(found.stuck.map(|way| format!("stuck after: {way}")));
        let what = what.unwrap_or_else(|| panic!("nobody misses {guard:?}"));
        println!("without {guard:?}: {what}");
        assert!(what.starts_with(violated), "without {guard:?}: {what}");
    }
}

/// So does each promise of the others.
#[test]
fn every_promise_is_needed() {
    for broken in [Broken::StaleIssuer, Broken::ReadyAsInjected, Broken::LowerEpochs] {
        let faults = match broken {
            Broken::LowerEpochs => Faults { restores: 1, ..Faults::NONE },
            _ => Faults { joins: 1, ..Faults::NONE },
        };
        let mut world = World::new(2, 1, faults);
        world.broken = Some(broken);
        let what = search(world, 6_000_000).violation;
        let what = what.unwrap_or_else(|| panic!("nobody misses the promise that {broken:?} breaks"));
        println!("{broken:?}: {what}");
        assert!(what.starts_with("I1"), "{broken:?}: {what}");
    }
}
