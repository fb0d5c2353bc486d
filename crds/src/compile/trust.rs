//! MeshTrust to what the operator keeps to.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use byrnie_model::TrustDomain;

use super::problem;
use crate::{
    MeshTrust, duration,
    meshtrust::Trust,
    problem::{Findings, Problem},
};

/// What the operator keeps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustPlan {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// How long a workload's certificate lives.
    pub leaf_lifetime: Duration,
    /// How long a root of our own lives.
    pub root_lifetime: Duration,
    /// Where the root comes from.
    pub source: RootSource,
    /// A rotation that is asked for, under this name.
    pub request: Option<String>,
    /// No rotation, and back from one that is under way.
    pub abort: bool,
    /// Ids of roots that must go, 64 hexadecimal digits each.
    pub compromised: BTreeSet<String>,
    /// Other trust domains with their roots in PEM, which is not read here.
    pub federation: BTreeMap<TrustDomain, String>,
}

/// Where the root comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootSource {
    /// The operator makes it.
    SelfManaged,
    /// A Secret of the control plane's namespace, by name.
    Secret(String),
}

/// Compiles a MeshTrust.
///
/// # Errors
/// Everything that is wrong with it; what was in force stays in force.
pub fn mesh_trust(trust: &MeshTrust) -> Result<TrustPlan, Vec<Problem>> {
    let written = trust.spec.read().map_err(|unread| unread.problems.clone())?;
    let mut findings = Findings::default();
    compile(written, &mut findings).ok_or(findings.problems)
}

fn compile(trust: &Trust, findings: &mut Findings) -> Option<TrustPlan> {
    let trust_domain = match trust.trust_domain.parse() {
        Ok(domain) => Some(domain),
        Err(error) => problem("spec.trustDomain", format!("{error}"), findings),
    };
    let leaf = lifetime(&trust.leaf_lifetime, "spec.leafLifetime", findings);
    let root = lifetime(&trust.root_lifetime, "spec.rootLifetime", findings);
    let source = match (&trust.source.self_managed, &trust.source.secret) {
        (Some(_), None) => Some(RootSource::SelfManaged),
        (None, Some(secret)) => Some(RootSource::Secret(secret.name.clone())),
        _ => problem("spec.source", "is exactly one of selfManaged and secret", findings),
    };
    let rotation = trust.rotation.clone().unwrap_or_default();
    if trust.source.self_managed.is_none() && (trust.rotation.is_some() || !trust.compromised.is_empty()) {
        let at = if trust.rotation.is_some() { "spec.rotation" } else { "spec.compromised" };
        return problem(at, "is for selfManaged roots; whoever makes the Secret rotates this one", findings);
    }
    if let Some(at) = trust.compromised.iter().position(|id| !is_id(id)) {
        let explained = "is no root's id: 64 hexadecimal digits in lower case, as in status.roots";
        return problem(&format!("spec.compromised[{at}]"), explained, findings);
    }
    let trust_domain: TrustDomain = trust_domain?;
    let federation = federation(trust, &trust_domain, findings)?;
    let (leaf, root) = (leaf?, root?);
    if leaf < Duration::from_mins(1) || leaf > Duration::from_hours(168) {
        return problem("spec.leafLifetime", "must be 1m to 168h", findings);
    }
    if leaf * 2 > root {
        return problem("spec.rootLifetime", "must be at least twice leafLifetime", findings);
    }
    Some(TrustPlan {
        trust_domain,
        leaf_lifetime: leaf,
        root_lifetime: root,
        source: source?,
        request: rotation.request,
        abort: rotation.abort,
        compromised: trust.compromised.iter().cloned().collect(),
        federation,
    })
}

fn federation(
    trust: &Trust,
    own: &TrustDomain,
    findings: &mut Findings,
) -> Option<BTreeMap<TrustDomain, String>> {
    let mut all = BTreeMap::new();
    for (index, other) in trust.federation.iter().enumerate() {
        let at = format!("spec.federation[{index}]");
        let domain: TrustDomain = match other.trust_domain.parse() {
            Ok(domain) => domain,
            Err(error) => return problem(&format!("{at}.trustDomain"), format!("{error}"), findings),
        };
        if domain == *own {
            return problem(&format!("{at}.trustDomain"), "is the mesh's own", findings);
        }
        if !other.roots.contains("-----BEGIN CERTIFICATE-----") {
            return problem(&format!("{at}.roots"), "holds no certificate in PEM", findings);
        }
        if all.insert(domain, other.roots.clone()).is_some() {
            return problem(&format!("{at}.trustDomain"), "is listed twice", findings);
        }
    }
    Some(all)
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn lifetime(text: &str, path: &str, findings: &mut Findings) -> Option<Duration> {
    duration::parse(text).or_else(|| problem(path, duration::EXPLAINED, findings))
}
