//! From what users write to what the mesh decides with. Pure and total: every object compiles to something safe.
//!
//! What is not understood is refused, never skipped: a policy that governs access (it has `authorization`,
//! `mtls` or a field that this version does not know) and is not understood in full refuses every request to its
//! targets, whatever other policies allow, until it is understood. Its action does not matter: half a Deny would
//! let pass what it was to stop, and half an Allow could allow what its lost half excluded. Where the targets
//! themselves are not understood, they are the whole namespace. `traffic` gives no access: a fault there
//! means that it is not applied.

mod authorization;
mod http;
mod split;
mod targets;
mod traffic;
mod trust;

use byrnie_model::{
    Action, Enforcement, Faults, Limits, Mtls, ObjectName, Policy, Ports, Protocol, Rule, Source, Timeouts,
    TrustDomain,
};
use kube::ResourceExt;

pub use split::{Shares, traffic_split};
pub use targets::{Target, Targets};
pub use trust::{RootSource, TrustPlan, mesh_trust};

use crate::{
    MeshPolicy,
    problem::{Findings, Problem},
    section::Section,
    shape,
};

/// A MeshPolicy, ready to be applied to the pods it selects.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// Which policy this is.
    pub name: ObjectName,
    /// What it is about.
    pub targets: Targets,
    /// Whether the targets take plaintext; `None`: it does not say.
    pub mtls: Option<Mtls>,
    /// How calls to the targets are made; `None`: it does not say.
    pub traffic: Option<Traffic>,
    /// What is wrong with it (the policy is not Accepted), and what is unwise.
    pub findings: Findings,
    authorization: Option<Policy>,
}

/// How calls are made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Time limits.
    pub timeouts: Timeouts,
    /// Retries, circuit breaking, balancing.
    pub calls: byrnie_model::Traffic,
    /// Whether endpoints of the caller's zone come first; `None`: as the Service says.
    pub prefer_zone: Option<bool>,
    /// What the targets take at a time.
    pub limits: Limits,
    /// Services of the same namespace that serve where no endpoint of the target can, in order.
    pub failover: Vec<String>,
    /// Services of the same namespace that a request may ask for instead.
    pub overrides: Vec<String>,
    /// Services of the same namespace that get copies, each of so many percent of the requests.
    pub mirrors: Vec<(String, u32)>,
    /// What is done to requests on purpose.
    pub faults: Faults,
    /// What is spoken, by container port.
    pub protocols: Vec<(u16, Protocol)>,
}

impl Compiled {
    /// The authorization of one pod. `ports` are the container ports that the targets select on it: the target
    /// ports of a Service, [`Ports::All`] for a namespace or Pods.
    pub fn policy(&self, ports: Ports) -> Option<Policy> {
        self.authorization.as_ref().map(|policy| Policy { ports, ..policy.clone() })
    }

    /// Whether this version understands all of the policy.
    pub fn accepted(&self) -> bool {
        self.findings.problems.is_empty()
    }
}

/// Compiles a policy; ServiceAccounts in it are those of `trust_domain`.
pub fn mesh_policy(policy: &MeshPolicy, trust_domain: &TrustDomain) -> Compiled {
    let name = ObjectName::new(policy.namespace().unwrap_or_default(), policy.name_any());
    let spec = &policy.spec;
    let mut findings = Findings::default();

    for field in spec.unknown.keys().take(shape::ENOUGH) {
        let known = ["targetRefs", "mtls", "authorization", "traffic"].into_iter();
        findings.problem(format!("spec.{field}"), shape::unknown_field(field, known));
    }
    let targets = targets::compile(spec.target_refs.as_ref(), &mut findings);
    let mtls = read(spec.mtls.as_ref(), &mut findings).and_then(|mtls| traffic::mtls(mtls, &mut findings));
    let authorization = read(spec.authorization.as_ref(), &mut findings)
        .and_then(|spec| authorization::compile(&name, spec, trust_domain, &mut findings));
    let understood = findings.problems.is_empty();
    let traffic =
        read(spec.traffic.as_ref(), &mut findings).and_then(|spec| traffic::compile(spec, &mut findings));

    let governs_access = spec.authorization.is_some() || spec.mtls.is_some() || !spec.unknown.is_empty();
    if !governs_access && spec.traffic.is_none() {
        findings.problem("spec", "needs at least one of mtls, authorization and traffic");
    }
    if governs_access && !understood {
        let targets = targets.unwrap_or(Targets::Namespace);
        let authorization = Some(denied_by_fault(name.clone()));
        return Compiled { name, targets, authorization, mtls: None, traffic: None, findings };
    }
    Compiled { name, targets: targets.unwrap_or_else(Targets::none), authorization, mtls, traffic, findings }
}

/// Refuses everything: what stands in for a policy that was not understood.
pub fn denied_by_fault(name: ObjectName) -> Policy {
    Policy {
        name,
        action: Action::Deny,
        enforcement: Enforcement::Enforced,
        ports: Ports::All,
        rules: vec![Rule { sources: vec![Source::Anyone], ..Rule::default() }],
    }
}

fn read<'a, T>(section: Option<&'a Section<T>>, findings: &mut Findings) -> Option<&'a T> {
    match section?.as_ref() {
        Ok(content) => Some(content),
        Err(unread) => {
            findings.problems.extend(unread.problems.iter().cloned());
            None
        }
    }
}

/// The items, where all of them compile.
fn all<T>(items: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    // Not `collect::<Option<_>>`: that would stop at the first fault and hide the others.
    let items: Vec<Option<T>> = items.collect();
    items.into_iter().collect()
}

/// Says where one key is used twice.
fn unique<K: PartialEq>(keys: &[K], path: &str, what: &str, findings: &mut Findings) -> Option<()> {
    let mut fine = Some(());
    for (index, key) in keys.iter().enumerate() {
        if let Some(first) = keys[..index].iter().position(|other| other == key) {
            findings.problem(format!("{path}[{index}]"), format!("names the same {what} as {path}[{first}]"));
            fine = None;
        }
    }
    fine
}

fn problem<T>(path: &str, message: impl Into<String>, findings: &mut Findings) -> Option<T> {
    findings.problems.push(Problem::new(path, message));
    None
}
