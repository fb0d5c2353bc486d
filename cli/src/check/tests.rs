//! What is seen of objects as YAML, and how it looks.

use anyhow::anyhow;
use byrnie_crds::{MeshPolicy, MeshTrust};
use k8s_openapi::{
    api::core::v1::{Namespace, Pod},
    jiff::Timestamp,
};
use serde::de::DeserializeOwned;

use super::{
    control_plane as plane,
    finding::{Report, Seen, State, area},
    namespaces::{Facts, one},
    objects, render,
};

fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What was seen, in a report of its own.
fn report(seen: Vec<Seen>) -> Report {
    let mut report = Report::default();
    report.add(area::CONTROL_PLANE, "", Ok(seen));
    report
}

/// State and text of the only finding.
fn says(seen: Seen) -> (State, String) {
    let finding = report(vec![seen]).findings.remove(0);
    assert_eq!(finding.state == State::Ok, finding.advice.is_empty(), "{finding:?}");
    (finding.state, finding.detail)
}

fn state(seen: Seen) -> State {
    says(seen).0
}

#[test]
fn old_clusters_are_refused() {
    assert_eq!(state(plane::server("1", "28", "v1.28.3".into())), State::Failed);
    assert_eq!(state(plane::server("1", "29+", "v1.29.0-eks".into())), State::Ok);
    assert_eq!(state(plane::server("2", "0", "v2.0.0".into())), State::Ok);
}

#[test]
fn kinds_of_others_must_serve_what_is_read() {
    let kind = |labels: &str, versions: &str| {
        let text = format!(
            "{{metadata: {{labels: {labels}}}, spec: {{group: split.smi-spec.io, scope: Namespaced,
            names: {{kind: TrafficSplit, plural: trafficsplits}}, versions: {versions}}}}}"
        );
        state(plane::kind("trafficsplits.split.smi-spec.io", Some(&yaml(&text))))
    };
    let (ours, theirs) = ("{app.kubernetes.io/part-of: byrnie}", "{}");
    let old = "[{name: v1alpha2, served: true, storage: true}]";
    let new = "[{name: v1alpha4, served: true, storage: true}]";
    assert_eq!(kind(ours, new), State::Ok);
    assert_eq!(kind(theirs, old), State::Failed);
    assert_eq!(kind(theirs, new), State::Warning);
    assert_eq!(
        kind(theirs, &new.replace("storage: true", "storage: true, subresources: {status: {}}")),
        State::Ok
    );
    assert_eq!(kind(theirs, &new.replace("served: true", "served: false")), State::Failed);
    let absent = report(vec![plane::kind("meshpolicies.byrnie.dev", None)]);
    assert!(absent.state == State::Failed && plane::is_absent(&absent));
}

#[test]
fn deployments_and_webhooks() {
    let deployment = |spec: &str| {
        let text = format!("{{spec: {{selector: {{}}, template: {{}}, replicas: 2}}, status: {spec}}}");
        state(plane::deployment("byrnie-system", "byrnie-operator", Some(&yaml(&text))))
    };
    assert_eq!(deployment("{readyReplicas: 2}"), State::Ok);
    assert_eq!(deployment("{readyReplicas: 1}"), State::Warning);
    assert_eq!(deployment("{}"), State::Failed);
    assert_eq!(state(plane::deployment("byrnie-system", "byrnie-operator", None)), State::Failed);
    let webhook =
        |clients: Option<&str>| state(plane::webhook("mutating", clients.map(yaml), "byrnie-system"));
    assert_eq!(webhook(Some("[{caBundle: QQ==}, {caBundle: QQ==}]")), State::Ok);
    assert_eq!(webhook(Some("[{caBundle: QQ==}, {}]")), State::Failed);
    assert_eq!((webhook(Some("[]")), webhook(None)), (State::Failed, State::Failed));
}

#[test]
fn trust_is_well_while_its_root_lives_and_all_hold_it() {
    let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
    let trust = |lifetime: &str, status: &str| {
        let text = format!(
            "{{apiVersion: byrnie.dev/v1alpha1, kind: MeshTrust, metadata: {{name: default}},
            spec: {{trustDomain: cluster.local, leafLifetime: 1m, rootLifetime: {lifetime}}}, status: {status}}}"
        );
        let trust: MeshTrust = yaml(&text);
        says(objects::trust_seen(Some(&trust), now, "byrnie-system"))
    };
    let well = "{phase: Stable, proxies: {current: 3, total: 3}, expires: '2026-12-01T00:00:00Z'}";
    assert_eq!(
        trust("8760h", well),
        (State::Ok, "Stable, 3/3 proxies hold the bundle; the root ends in 183 days".into())
    );
    assert_eq!(trust("8760h", &well.replace("current: 3", "current: 2")).0, State::Warning);
    assert_eq!(trust("8760h", &well.replace("2026-12", "2026-06")).0, State::Warning);
    let short = well.replace("2026-12-01T00", "2026-06-01T05");
    assert_eq!(
        trust("10h", &short),
        (State::Ok, "Stable, 3/3 proxies hold the bundle; the root ends in 5 hours".into())
    );
    let not_ready = "{conditions: [{type: Ready, status: 'False', reason: NoSecret, message: secret x is missing, lastTransitionTime: '2026-01-01T00:00:00Z'}]}";
    assert_eq!(
        trust("8760h", not_ready),
        (State::Failed, "not Ready (NoSecret): secret x is missing".into())
    );
    assert_eq!(state(objects::trust_seen(None, now, "byrnie-system")), State::Failed);
}

#[test]
fn policies_say_what_became_of_them() {
    let policy = |conditions: &str| {
        let text = format!(
            "{{apiVersion: byrnie.dev/v1alpha1, kind: MeshPolicy, metadata: {{name: pay, namespace: shop, generation: 2}}, spec: {{mtls: {{}}}},
            status: {{conditions: [{conditions}]}}}}"
        );
        let policy: MeshPolicy = yaml(&text);
        let conditions = policy.status.as_ref().map(|status| status.conditions.as_slice());
        objects::object("meshpolicy", &policy, conditions, "byrnie-system").map(says)
    };
    let condition = |type_: &str, status: &str, generation: u8| {
        format!(
            "{{type: {type_}, status: '{status}', reason: Why, message: so, observedGeneration: {generation}, lastTransitionTime: '2026-01-01T00:00:00Z'}}"
        )
    };
    let accepted = condition("Accepted", "True", 2);
    let with = |other: String| policy(&format!("{accepted}, {other}"));
    assert_eq!(with(condition("Programmed", "True", 2)), None);
    assert_eq!(
        with(condition("Programmed", "False", 2)),
        Some((State::Warning, "not Programmed (Why): so".into()))
    );
    assert_eq!(with(condition("ResolvedRefs", "False", 2)).unwrap().0, State::Warning);
    assert_eq!(
        policy(&condition("Accepted", "False", 2)),
        Some((State::Failed, "not Accepted (Why): so".into()))
    );
    // What is said of an older generation is not said of this one.
    assert_eq!(policy(&condition("Accepted", "True", 1)).unwrap().0, State::Warning);
    assert_eq!(policy("").unwrap().0, State::Warning);
}

fn pod(name: &str, more: &str, ready: bool) -> Pod {
    yaml(&format!(
        "{{metadata: {{name: {name}, labels: {{byrnie.dev/injected: 'true'}}, annotations: {{byrnie.dev/proxy-version: 1.0.0}}}},
        spec: {{initContainers: [{{name: byrnie-proxy}}], containers: [] {more}}},
        status: {{initContainerStatuses: [{{name: byrnie-proxy, ready: {ready}, restartCount: 0, image: i, imageID: i}}]}}}}"
    ))
}

fn bare(name: &str, labels: &str, spec: &str) -> Pod {
    yaml(&format!("{{metadata: {{name: {name}, labels: {labels}}}, spec: {{containers: [] {spec}}}}}"))
}

fn namespace(labels: &str, annotations: &str) -> Namespace {
    yaml(&format!("{{metadata: {{name: shop, labels: {labels}, annotations: {annotations}}}}}"))
}

#[test]
fn pods_are_in_the_mesh_or_are_named() {
    let of = |namespace: &Namespace, pods: &[Pod], version: Option<&str>| -> Vec<(State, String)> {
        let facts = Facts { namespace, trusted: true, pods, version, system: "byrnie-system" };
        one(&facts).into_iter().map(says).collect()
    };
    let shop = namespace("{}", "{}");
    let fine = [pod("a", "", true), pod("b", "", true)];
    assert_eq!(of(&shop, &fine, Some("1.0.0")), [(State::Ok, "2 pods in the mesh".into())]);
    assert_eq!(of(&shop, &fine, None).len(), 1);
    assert_eq!(
        of(&shop, &fine, Some("1.1.0")),
        [(State::Warning, "2 proxies are not of version 1.1.0: a, b".into())]
    );
    assert_eq!(of(&shop, &[pod("a", "", false)], None), [(State::Failed, "1 proxy is not ready: a".into())]);
    let outside = [
        bare("x", "{}", ""),
        bare("node", "{}", ", hostNetwork: true"),
        bare("out", "{byrnie.dev/inject: disabled}", ""),
    ];
    assert_eq!(of(&shop, &outside, None), [(State::Warning, "2 pods have no proxy: x, out".into())]);
    let may_opt_out = namespace("{}", "{byrnie.dev/allow-opt-out: 'true'}");
    assert_eq!(of(&may_opt_out, &outside, None), [(State::Warning, "1 pod has no proxy: x".into())]);
    let guarded = namespace("{pod-security.kubernetes.io/enforce: baseline}", "{}");
    assert_eq!(of(&guarded, &[], None)[0].0, State::Failed);
    let untrusted =
        Facts { namespace: &shop, trusted: false, pods: &[], version: None, system: "byrnie-system" };
    assert_eq!(says(one(&untrusted).remove(0)).0, State::Failed);
}

#[test]
fn how_it_looks() {
    let mut mixed = Report::default();
    mixed.add(area::CONTROL_PLANE, "", Ok(vec![plane::server("1", "36", "v1.36.0".into())]));
    mixed.add(area::CONTROL_PLANE, "", Ok(vec![plane::webhook("mutating", None, "byrnie-system")]));
    mixed.add(
        area::TRUST,
        "meshtrust",
        Err(anyhow!("cannot read MeshTrust default: forbidden; ask for that right")),
    );
    let shop = namespace("{}", "{}");
    let pods = [pod("a", "", true), bare("x", "{}", "")];
    let facts =
        Facts { namespace: &shop, trusted: true, pods: &pods, version: None, system: "byrnie-system" };
    mixed.add(area::NAMESPACES, "", Ok(one(&facts)));
    let well = report(vec![plane::server("1", "36", "v1.36.0".into())]);
    let text = format!("{}\n---\n{}", render::text(&mixed), render::text(&well));
    insta::assert_snapshot!("text", anstream::adapter::strip_str(&text).to_string());
    insta::assert_snapshot!("json", crate::output::json(&mixed).unwrap());
    assert_eq!((mixed.state, well.state), (State::Failed, State::Ok));
}
