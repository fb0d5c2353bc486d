//! What good objects compile to.

use std::time::Duration;

use byrnie_crds::{
    MeshPolicy, MeshTrust, TrafficSplit,
    compile::{self, RootSource, Target, Targets},
    meshpolicy::ProxyCount,
    summary,
};
use byrnie_model::{Action, HttpMatch, MtlsMode, PathMatch, Policy, Ports, Protocol, Source, ValueMatch};
use serde_json::json;

use crate::{edit, policy, problems, split, trust};

fn compiled(policy: &serde_json::Value) -> compile::Compiled {
    let policy: MeshPolicy = serde_json::from_value(policy.clone()).unwrap();
    compile::mesh_policy(&policy, &"cluster.local".parse().unwrap())
}

#[test]
fn good_objects_have_no_problem() {
    for object in [policy(), split(), trust()] {
        assert_eq!(problems(&object), [""; 0], "{object}");
    }
}

#[test]
fn every_field_of_a_policy_arrives_in_the_model() {
    let compiled = compiled(&policy());
    assert!(compiled.accepted());
    assert_eq!(compiled.name.to_string(), "shop/payments");
    let Targets::Only(targets) = &compiled.targets else { panic!("{:?}", compiled.targets) };
    let [Target::Service(service), Target::Pods(pods)] = &targets[..] else { panic!("{targets:?}") };
    assert_eq!(service, "payments");
    assert!(pods.selects(&[("app", "payments"), ("tier", "web")].map(|(k, v)| (k.into(), v.into())).into()));

    let mtls = compiled.mtls.as_ref().unwrap();
    assert_eq!((mtls.mode(80), mtls.mode(9090)), (MtlsMode::Strict, MtlsMode::Permissive));

    let Policy { action, ports, rules, .. } = compiled.policy(Ports::Only(vec![8080, 9090])).unwrap();
    assert_eq!((action, ports), (Action::Allow, Ports::Only(vec![8080, 9090])));
    let [checkout, anyone] = &rules[..] else { panic!("{rules:?}") };
    let source = Source::Workload {
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "shop".into(),
        service_account: Some("checkout".into()),
    };
    assert_eq!((&checkout.sources[..], &checkout.ports), (&[source][..], &Ports::Only(vec![8080])));
    let HttpMatch { methods, path, hosts, headers } = &checkout.http[0];
    assert_eq!(methods, &["POST"]);
    assert_eq!(path, &Some(PathMatch::Prefix("/charge".into())));
    assert_eq!(hosts, &["payments.shop", "*.example.org"]);
    assert_eq!((headers[0].name.as_str(), &headers[0].value), ("x-team", &ValueMatch::Exact("blue".into())));
    assert_eq!((headers[1].name.as_str(), &headers[1].value), ("traceparent", &ValueMatch::Present));
    assert_eq!((&anyone.sources[..], anyone.http.len()), (&[Source::Anyone][..], 0));

    let traffic = compiled.traffic.unwrap();
    assert_eq!(traffic.timeouts.request, Some(Duration::from_secs(10)));
    assert_eq!(traffic.timeouts.idle, Some(Duration::from_mins(5)));
    assert_eq!(traffic.protocols, [(3306, Protocol::Opaque)]);
}

#[test]
fn defaults_are_the_strict_ones() {
    let spec = json!({"mtls": {}, "authorization": {"rules": []}});
    let compiled = compiled(&edit(policy(), "/spec", Some(spec)));
    assert!(compiled.accepted());
    assert_eq!(
        (&compiled.targets, compiled.mtls.as_ref().unwrap().mode(1)),
        (&Targets::Namespace, MtlsMode::Strict)
    );
    let policy = compiled.policy(Ports::All).unwrap();
    assert_eq!((policy.action, policy.rules.len()), (Action::Allow, 0));
    assert_eq!(policy.enforcement, byrnie_model::Enforcement::Enforced);
}

#[test]
fn a_star_is_the_whole_namespace() {
    let at = "/spec/authorization/rules/0/sources/0/serviceAccount/name";
    let compiled = compiled(&edit(policy(), at, Some(json!("*"))));
    let source = compiled.policy(Ports::All).unwrap().rules[0].sources[0].clone();
    let Source::Workload { namespace, service_account, .. } = source else { panic!("{source:?}") };
    assert_eq!((namespace.as_str(), service_account), ("shop", None));
}

#[test]
fn a_policy_about_traffic_alone_governs_no_access() {
    let spec = json!({"traffic": {"timeouts": {"request": "0s"}}});
    let compiled = compiled(&edit(policy(), "/spec", Some(spec)));
    assert!(compiled.accepted());
    assert_eq!((compiled.policy(Ports::All), &compiled.mtls), (None, &None));
    assert_eq!(compiled.traffic.unwrap().timeouts.request, None);
}

#[test]
fn a_split_is_services_and_weights() {
    let split: TrafficSplit = serde_json::from_value(split()).unwrap();
    let shares = compile::traffic_split(&split).unwrap();
    assert_eq!(shares.service, "web");
    assert_eq!(shares.backends, [("web-v1".to_owned(), 90), ("web-v2".to_owned(), 10)]);
    assert_eq!(shares.warnings, []);
}

#[test]
fn the_called_service_may_be_a_backend_and_weights_may_be_zero() {
    let backends = json!([{"service": "web", "weight": 0}, {"service": "web-v2", "weight": 0}]);
    let object = edit(split(), "/spec/backends", Some(backends));
    assert_eq!(problems(&object), [""; 0]);
    let warnings: Vec<String> =
        byrnie_crds::validate(&object).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["spec.backends: all weights are 0: every call is refused with 503"]);
}

#[test]
fn every_spelling_of_a_service_is_understood() {
    for service in ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local"] {
        let split = serde_json::from_value(edit(split(), "/spec/service", Some(json!(service)))).unwrap();
        assert_eq!(compile::traffic_split(&split).unwrap().service, "web", "{service}");
    }
}

#[test]
fn a_trust_is_a_plan() {
    let plan = compile::mesh_trust(&serde_json::from_value::<MeshTrust>(trust()).unwrap()).unwrap();
    assert_eq!(plan.trust_domain.as_str(), "cluster.local");
    assert_eq!(
        (plan.leaf_lifetime, plan.root_lifetime),
        (Duration::from_hours(24), Duration::from_hours(8760))
    );
    assert_eq!(plan.source, RootSource::SelfManaged);
    let short = json!({"trustDomain": "cluster.local"});
    let defaulted = serde_json::from_value::<MeshTrust>(edit(trust(), "/spec", Some(short))).unwrap();
    assert_eq!(compile::mesh_trust(&defaulted), Ok(plan));
    let id = "0".repeat(64);
    let urgent = edit(trust(), "/spec/compromised", Some(json!([id])));
    let urgent = edit(urgent, "/spec/rotation", Some(json!({"request": "2026-10-12", "abort": true})));
    let plan = compile::mesh_trust(&serde_json::from_value::<MeshTrust>(urgent).unwrap()).unwrap();
    assert_eq!((plan.request.as_deref(), plan.abort), (Some("2026-10-12"), true));
    assert_eq!(plan.compromised, [id].into());
    let roots = "-----BEGIN CERTIFICATE-----\n...";
    let federated =
        edit(trust(), "/spec/federation", Some(json!([{"trustDomain": "other.org", "roots": roots}])));
    let plan = compile::mesh_trust(&serde_json::from_value::<MeshTrust>(federated).unwrap()).unwrap();
    assert_eq!(plan.federation, [("other.org".parse().unwrap(), roots.to_owned())].into());
    let secret = json!({"secret": {"name": "cert-manager-ca"}});
    let from_secret =
        serde_json::from_value::<MeshTrust>(edit(trust(), "/spec/source", Some(secret))).unwrap();
    assert_eq!(
        compile::mesh_trust(&from_secret).unwrap().source,
        RootSource::Secret("cert-manager-ca".into())
    );
}

#[test]
fn summaries_say_it_in_a_line() {
    let object = policy();
    let read: MeshPolicy = serde_json::from_value(object.clone()).unwrap();
    let line =
        summary::mesh_policy(&read, &compiled(&object), Some(ProxyCount { programmed: 11, total: 12 }));
    assert_eq!(line.targets, "Service/payments,Pod/app=payments&tier in (web|api)");
    assert_eq!((line.mtls.as_str(), line.rules.as_str()), ("Strict,9090 Permissive", "Allow 2"));
    assert_eq!((line.enforcement.as_str(), line.proxies.as_str()), ("Enforced", "11/12"));
    let split: TrafficSplit = serde_json::from_value(split()).unwrap();
    assert_eq!(summary::traffic_split(&split, None).backends, "web-v1:90 web-v2.shop.svc:10");
}

#[test]
fn what_was_read_is_written_again() {
    for object in [policy(), edit(policy(), "/spec/authorization/rules/0/mehtods", Some(json!(["GET"])))] {
        let read: MeshPolicy = serde_json::from_value(object.clone()).unwrap();
        let written = serde_json::to_value(&read).unwrap();
        assert_eq!(serde_json::from_value::<MeshPolicy>(written).unwrap(), read);
    }
}
