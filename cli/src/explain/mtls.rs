//! Who decides whether a pod's port takes plaintext.
//!
//! How policies take precedence is `govern`'s to know. It is asked again with one voice changed: whose change is
//! heard decides.

use byrnie_crds::govern::{Candidate, govern};
use byrnie_model::{Mtls, MtlsMode, ObjectName};

use super::world::{Pod, World};

/// The policy that decides about plaintext on a port; `None`: the namespace's own default holds.
pub(super) fn decided_by(world: &World, pod: &Pod, port: u16) -> Option<ObjectName> {
    let facts = pod.facts(&world.namespace);
    let services = world.service_facts();
    let mode = |default, policies: &[Candidate]| {
        govern(&facts, default, policies, &services).workload.inbound.mtls.mode(port)
    };
    let mut policies: Vec<Candidate> = world.policies.iter().map(|policy| policy.candidate.clone()).collect();
    let now = mode(world.default, &policies);
    for at in 0..policies.len() {
        let Some(mtls) = policies[at].compiled.mtls.clone() else { continue };
        policies[at].compiled.mtls = Some(turned(&mtls));
        let heard = mode(world.default, &policies) != now;
        policies[at].compiled.mtls = Some(mtls);
        if heard {
            return Some(policies[at].compiled.name.clone());
        }
    }
    None
}

fn turned(mtls: &Mtls) -> Mtls {
    let turn = |mode| match mode {
        MtlsMode::Strict => MtlsMode::Permissive,
        MtlsMode::Permissive => MtlsMode::Strict,
    };
    Mtls { default: turn(mtls.default), ports: mtls.ports.iter().map(|(p, m)| (*p, turn(*m))).collect() }
}
