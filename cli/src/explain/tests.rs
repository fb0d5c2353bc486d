//! Questions about a shop as YAML, and what is answered.

use clap::Parser;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::Value;

use super::{
    answer::{Explanation, Verdict},
    decide::explain,
    render,
    target::Unreachable,
    world::Objects,
};
use crate::{
    args::{Args, Command},
    output,
};

const SHOP: &str = include_str!("fixtures/shop.yaml");

/// `change` works on each document before it is read.
fn shop(change: impl Fn(&mut Value)) -> Objects {
    let mut objects = Objects {
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: Namespace::default(),
        policies: vec![],
        splits: vec![],
        services: vec![],
        pods: vec![],
        callers: None,
    };
    for document in SHOP.split("\n---\n") {
        let mut document: Value = serde_saphyr::from_str(document).unwrap();
        change(&mut document);
        let kind = document["kind"].as_str().unwrap().to_owned();
        let version = match kind.as_str() {
            "MeshPolicy" => "byrnie.dev/v1alpha1",
            "TrafficSplit" => "split.smi-spec.io/v1alpha4",
            _ => "v1",
        };
        document["apiVersion"] = version.into();
        match kind.as_str() {
            "Namespace" => objects.namespace = serde_json::from_value(document).unwrap(),
            "Service" => objects.services.push(serde_json::from_value(document).unwrap()),
            "Pod" => objects.pods.push(serde_json::from_value(document).unwrap()),
            "MeshPolicy" => objects.policies.push(serde_json::from_value(document).unwrap()),
            "TrafficSplit" => objects.splits.push(serde_json::from_value(document).unwrap()),
            other => panic!("{other}"),
        }
    }
    objects.callers = Some(objects.pods.clone());
    objects
}

fn asked_of(objects: &Objects, flags: &str) -> Result<Explanation, Unreachable> {
    let args = Args::try_parse_from(format!("byrnie explain {flags}").split(' ')).unwrap();
    let Command::Explain(args) = args.command else { panic!("{flags}") };
    explain(objects, &args.question())
}

fn asked(flags: &str) -> Explanation {
    asked_of(&shop(|_| ()), flags).unwrap_or_else(|error| panic!("{flags}: {error}"))
}

/// The verdict and, for each backend, the reasons of its groups with their pods.
fn brief(explanation: &Explanation) -> String {
    let groups = explanation.backends.iter().flat_map(|backend| &backend.groups);
    let groups = groups.map(|group| {
        let audit = group.audit.as_ref().map(|a| format!(" (audit: {})", a.reason)).unwrap_or_default();
        let status = group.status.map(|status| format!(" {status}")).unwrap_or_default();
        format!("{}{status}{audit} {}:{}", group.ground.reason, group.pods.join("+"), group.port)
    });
    format!("{:?}: {}", explanation.verdict, groups.collect::<Vec<_>>().join(", "))
}

#[test]
fn every_kind_of_answer() {
    for (flags, answer) in [
        (
            "--from shop/catalog --to shop/payments:80 --path /quote?x=1",
            "Allowed: allowed-by-rule payments-0:8080, allowed-by-rule payments-1:8081, no-proxy payments-2:8080",
        ),
        (
            "--from lab/x --to shop/payments:http",
            "Refused: allowed-by-rule payments-0:8080, no-rule-allows 403 payments-1:8081, no-proxy payments-2:8080",
        ),
        ("--from shop/web --to shop/pod/payments-0", "Refused: no-rule-allows 403 payments-0:8080"),
        (
            "--from shop/catalog --to shop/pod/payments-0 --path /quote/../x",
            "Refused: ambiguous-path 400 payments-0:8080",
        ),
        ("--from shop/catalog --to shop/pod/payments-0 --tcp", "Refused: not-http payments-0:8080"),
        ("--from-plaintext --to shop/pod/payments-0:web", "Refused: plaintext-refused payments-0:8080"),
        ("--from-plaintext --to shop/pod/payments-0:9000", "Allowed: port-skipped payments-0:9000"),
        ("--from-plaintext --to shop/pod/payments-0:14191", "Allowed: proxy-admin-port payments-0:14191"),
        ("--from-plaintext --to shop/pod/payments-2", "Allowed: no-proxy payments-2:8080"),
        ("--from-plaintext --to shop/old", "Allowed: no-policy old-0:80"),
        ("--from shop/web --to shop/old", "Allowed: no-policy old-0:80"),
        ("--from shop/web --to shop/typo", "Refused: denied-by-rule 403 typo-0:80"),
        // Behind mysql is no HTTP to be seen, whatever is sent.
        ("--from shop/web --to shop/orders", "Refused: not-http orders-0:3306"),
        ("--from shop/web --to shop/pod/orders-0:80", "Allowed: no-policy orders-0:80"),
        (
            "--from shop/web --to shop/catalog",
            "Allowed: no-policy catalog-v1-a:8080, no-policy catalog-v2-a:8080",
        ),
        (
            "--from lab/x --to shop/catalog",
            "Refused: no-policy (audit: no-rule-allows) catalog-v1-a:8080, denied-by-rule 403 catalog-v2-a:8080",
        ),
        ("--from-plaintext --to shop/catalog", "Refused: plaintext-refused catalog-v1-a+catalog-v2-a:8080"),
    ] {
        assert_eq!(brief(&asked(flags)), answer, "{flags}");
    }
}

#[test]
fn headers_and_hosts_decide_as_they_are_told() {
    let pod = "--from shop/catalog --to shop/pod/payments-0 --method POST --path /charge/1";
    let mismatches = |flags: &str| {
        let answer = asked(&format!("{pod}{flags}"));
        answer.backends[0].groups[0].ground.considered.first().map(|rule| rule.mismatches.clone())
    };
    let charge = |fields: &[&str]| {
        let quote = ["http[0].methods", "http[0].path"];
        Some(quote.iter().chain(fields).map(|field| (*field).to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(mismatches(""), charge(&["http[1].hosts", "http[1].headers[0]"]));
    assert_eq!(mismatches(" --host payments.shop.svc:8080"), charge(&["http[1].headers[0]"]));
    assert_eq!(mismatches(" --host payments.shop.svc --header x-tenant=blue"), None);
    let twice = " --host payments.shop.svc --header x-tenant=blue --header x-tenant=red";
    assert_eq!(mismatches(twice), charge(&["http[1].headers[0]"]));
}

#[test]
fn shares_are_of_backends_that_can_answer() {
    let of = |objects: &Objects, flags: &str| {
        let answer = asked_of(objects, flags).unwrap();
        let shares = answer.backends.iter().map(|b| (b.service.clone().unwrap_or_default(), b.share));
        (answer.split, shares.collect::<Vec<_>>(), answer.verdict)
    };
    let named =
        |shares: &[(&str, f64)]| shares.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect::<Vec<_>>();
    let split = Some("shop/canary".to_owned());
    let lab = "--from lab/x --to shop/catalog";
    let (by, shares, verdict) = of(&shop(|_| ()), lab);
    assert_eq!(by, split);
    assert_eq!(shares, named(&[("catalog-v1", 0.9), ("catalog-v2", 0.1), ("catalog-v3", 0.0)]));
    assert_eq!(verdict, Verdict::Refused);
    // What refuses gets no calls while it is not ready, nor with weight 0.
    let unready = shop(|object| {
        if object["metadata"]["name"] == "catalog-v2-a" {
            object["status"]["conditions"][0]["status"] = "False".into();
        }
    });
    let (_, shares, verdict) = of(&unready, lab);
    assert_eq!((shares[0].1, shares[1].1, verdict), (1.0, 0.0, Verdict::Allowed));
    let idle = shop(|object| {
        if object["metadata"]["name"] == "canary" {
            object["spec"]["backends"][1]["weight"] = 0.into();
        }
    });
    let (_, shares, verdict) = of(&idle, lab);
    assert_eq!((shares[0].1, shares[1].1, verdict), (1.0, 0.0, Verdict::Allowed));
    // The caller's proxy divides; without one there is no split.
    let (by, shares, _) = of(&shop(|_| ()), "--from-plaintext --to shop/catalog");
    assert_eq!((by, shares), (None, named(&[("catalog", 1.0)])));
}

#[test]
fn who_decides_about_plaintext_is_named() {
    let because = |objects: &Objects, flags: &str| {
        asked_of(objects, flags).unwrap().backends[0].groups[0].ground.because.clone()
    };
    let annotated = shop(|object| {
        if object["kind"] == "Namespace" {
            object["metadata"]["annotations"]["byrnie.dev/mtls"] = "Permissive".into();
        }
    });
    let (old, catalog) = ("--from-plaintext --to shop/old", "--from-plaintext --to shop/pod/catalog-v1-a");
    assert!(because(&shop(|_| ()), old).contains("MeshPolicy shop/old says Permissive"));
    assert!(because(&annotated, old).contains("MeshPolicy shop/old says Permissive"));
    assert!(because(&shop(|_| ()), catalog).contains("that is the default"));
    assert!(
        because(&annotated, catalog).contains("annotation byrnie.dev/mtls of namespace shop says Permissive")
    );
}

#[test]
fn callers_without_a_proxy_are_noticed() {
    let notes = |flags: &str| asked(flags).notes.join("\n");
    assert!(
        notes("--from shop/payments --to shop/old").contains("Pod payments-2 of shop/payments has no proxy")
    );
    assert!(notes("--from shop/nobody --to shop/old").contains("No pod runs as shop/nobody now"));
    assert!(!notes("--from shop/catalog --to shop/old").contains("pod"));
}

#[test]
fn where_else_calls_may_go_is_told() {
    let with = |spec: &str, flags: &str| {
        let mut objects = shop(|_| ());
        let metadata = "metadata: {namespace: shop, name: calls}";
        let yaml = format!("{{apiVersion: byrnie.dev/v1alpha1, kind: MeshPolicy, {metadata}, spec: {spec}}}");
        objects.policies.push(serde_saphyr::from_str(&yaml).unwrap());
        asked_of(&objects, flags).unwrap().notes
    };
    let to_old = "{targetRefs: [{kind: Service, name: old}], traffic: {failover: [{service: typo}, {service: absent}], \
                  overrides: [{service: typo}, {service: orders}], mirrors: [{service: typo, percent: 5}]}}";
    let calls = "--from shop/catalog --to shop/old";
    assert_eq!(
        with(to_old, calls),
        [
            "MeshPolicy shop/calls: while no endpoint of old takes requests, calls go to typo or else absent (which does not exist)",
            "MeshPolicy shop/calls: a request with 'baggage: byrnie-route=SERVICE' may go to typo or orders (which has no port 80) instead",
            "MeshPolicy shop/calls: typo gets copies of 5 % of the requests",
        ]
    );
    let faults = "{traffic: {mirrors: [{service: old}], faults: {delay: {percent: 10, time: 2s}, abort: {percent: 1, status: 503}}}}";
    let on_purpose = [
        "MeshPolicy shop/calls: 10 % of the requests are sent 2s later, on purpose",
        "MeshPolicy shop/calls: 1 % of the requests are answered 503 instead of being sent, on purpose",
    ];
    assert_eq!(with(faults, calls), on_purpose, "nobody is a mirror of oneself");
    assert_eq!(with(to_old, "--from shop/catalog --to shop/typo"), [""; 0], "a policy for another Service");
    let plaintext = with(to_old, "--from-plaintext --to shop/old");
    assert_eq!(plaintext, [""; 0], "it is the caller's proxy that would do it");
}

#[test]
fn what_cannot_be_found_out_says_what_to_do() {
    for (to, says) in [
        ("shop/paymnts", "namespace shop has no Service paymnts; it has catalog, catalog-v1"),
        ("shop/pod/x", "namespace shop has no live pod x; it has"),
        ("shop/pod/payments-ended", "has no live pod payments-ended"),
        (
            "shop/payments",
            "service shop/payments has 2 ports: name one, as in --to .../payments:80 (it has 80 (http), 9000 (admin))",
        ),
        ("shop/payments:81", "service shop/payments has no TCP port 81; it has 80 (http), 9000 (admin)"),
        ("shop/pod/old-0", "pod shop/old-0 has no TCP port that it declares; it has none"),
        ("shop/outside", "stands for example.org, outside the cluster"),
        ("shop/manual", "ask about a pod: --to NAMESPACE/pod/NAME:PORT"),
        ("shop/empty", "no pod is behind service shop/empty"),
        ("shop/misnamed", "no pod behind service shop/misnamed has a port named wbe"),
    ] {
        let error = asked_of(&shop(|_| ()), &format!("--from shop/web --to {to}")).unwrap_err().to_string();
        assert!(error.contains(says), "{to}: {error}");
    }
    let zero = shop(|object| {
        if object["metadata"]["name"] == "canary" {
            object["spec"]["backends"] = serde_json::json!([{"service": "catalog-v1", "weight": 0}]);
        }
    });
    let error = asked_of(&zero, "--from shop/web --to shop/catalog").unwrap_err().to_string();
    assert!(error.starts_with("trafficsplit shop/canary leaves nobody to call"), "{error}");
}

#[test]
fn how_it_looks() {
    let questions = [
        "--from shop/web --to shop/payments:80 --path /quote",
        "--from shop/catalog --to shop/payments:80 --path /quote",
        "--from shop/catalog --to shop/pod/payments-0 --method POST --path /charge",
        "--from lab/x --to shop/catalog",
        "--from shop/web --to shop/orders",
        "--from-plaintext --to shop/old",
        "--from-plaintext --to shop/pod/payments-0",
        "--from shop/web --to shop/typo",
    ];
    let answers = questions.map(|flags| format!("$ byrnie explain {flags}\n{}", render::text(&asked(flags))));
    let plain = anstream::adapter::strip_str(&answers.join("\n")).to_string();
    insta::assert_snapshot!("text", plain);
}

#[test]
fn json_is_a_contract() {
    let flags = "--from lab/x --to shop/catalog --method POST --path /items --header x-tenant=blue";
    insta::assert_snapshot!("split.json", output::json(&asked(flags)).unwrap());
    let flags = "--from shop/web --to shop/pod/payments-0 --path /quote";
    insta::assert_snapshot!("refused.json", output::json(&asked(flags)).unwrap());
}
