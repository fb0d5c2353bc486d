//! Pods of many shapes before and after: the whole injected pod is compared with the kept one, and injecting it again
//! changes nothing.

#![expect(clippy::panic, reason = "a test says what it got instead")]

use std::{collections::BTreeMap, fs, path::Path};

use byrnie_injector::{
    inject::{Outcome, Resources, Settings, Source, inject, refusal::Refusal},
    namespace::Namespace,
};
use serde_json::{Value, json};

fn settings() -> Settings {
    Settings {
        proxy_image: "docker.io/byrnie/proxy:1.2.3".into(),
        image_pull_policy: "IfNotPresent".into(),
        version: "1.2.3".into(),
        trust_domain: "cluster.local".into(),
        log: "info".into(),
        hook_key: || "5ec2e7".into(),
        resources: Resources {
            cpu_request: "10m".into(),
            memory_request: "16Mi".into(),
            ..Resources::default()
        },
    }
}

fn namespace(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> Namespace {
    let map = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
    };
    Namespace { name: "shop".into(), labels: map(labels), annotations: map(annotations) }
}

fn meshed() -> Namespace {
    namespace(&[("byrnie.dev/inject", "enabled")], &[])
}

fn injected(pod: &Value, namespace: &Namespace) -> Value {
    match inject(pod, namespace, &settings(), Source::Operator) {
        Ok(Outcome::Injected(pod)) => *pod,
        other => panic!("expected an injected pod, got {other:?}"),
    }
}

fn refused(pod: &Value, namespace: &Namespace) -> String {
    match inject(pod, namespace, &settings(), Source::Operator) {
        Err(refusal) => refusal.to_string(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "reads like the YAML it stands for")]
fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn pods_of_every_shape() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pods");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    assert!(files.len() >= 7);
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let before: Value = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let after = injected(&before, &meshed());
        insta::assert_yaml_snapshot!(name.clone(), after);
        assert_eq!(injected(&after, &meshed()), after, "{name}: injecting twice is injecting once");
        let mut patched = before.clone();
        json_patch::patch(&mut patched, &json_patch::diff(&before, &after)).unwrap();
        assert_eq!(patched, after, "{name}: the patch says the same");
    }
}

#[test]
fn an_application_is_told_to_stop_when_its_callers_have_gone() {
    let hook = |spec: Value| {
        injected(&pod(spec), &meshed())["spec"]["containers"][0]["lifecycle"]["preStop"].clone()
    };
    let ours = json!({"httpGet": {"path": "/parted", "port": 14191, "scheme": "HTTP"}});
    assert_eq!(hook(json!({"containers": [{"name": "a", "image": "a:1"}]})), ours);
    let own = json!({"exec": {"command": ["sleep", "5"]}});
    let with_own = json!({"containers": [{"name": "a", "image": "a:1", "lifecycle": {"preStop": own}}]});
    assert_eq!(hook(with_own), own);
    let hasty = json!({"terminationGracePeriodSeconds": 4, "containers": [{"name": "a", "image": "a:1"}]});
    assert_eq!(hook(hasty), Value::Null);
}

#[test]
fn kubelets_are_asked_where_they_are_answered() {
    let web = pod(json!({"containers": [{"name": "web", "image": "web:1"}]}));
    let sources = |pod: &Value, source| match inject(pod, &meshed(), &settings(), source) {
        Ok(Outcome::Injected(pod)) => (pod["spec"]["volumes"][0]["projected"]["sources"].clone(), *pod),
        other => panic!("expected an injected pod, got {other:?}"),
    };
    let (operator, without) = sources(&web, Source::Operator);
    let (kubelet, with) = sources(&web, Source::Kubelet);
    insta::assert_yaml_snapshot!("sources-kubelet", kubelet);
    assert_eq!(kubelet.as_array().unwrap()[..2], operator.as_array().unwrap()[..], "the token stays");
    for (source, expected) in [(Source::Operator, &without), (Source::Kubelet, &with)] {
        assert_eq!(sources(&with, source).1, *expected, "injecting again leaves nothing of before");
    }
}

#[test]
fn a_forged_sidecar_does_not_survive() {
    let forged = json!([{"name": "byrnie-proxy", "image": "evil:1", "restartPolicy": "Always"}]);
    let pod = pod(json!({"initContainers": forged, "containers": [{"name": "web", "image": "web:1"}]}));
    let after = injected(&pod, &meshed());
    let images: Vec<&str> = after["spec"]["initContainers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["image"].as_str().unwrap())
        .collect();
    assert_eq!(images, ["docker.io/byrnie/proxy:1.2.3"; 2]);
}

#[test]
fn what_cannot_be_meshed_says_what_to_do() {
    let web = json!([{"name": "web", "image": "web:1"}]);
    let with = |field: &str, value: Value| {
        let mut spec = json!({"containers": web});
        spec[field] = value;
        pod(spec)
    };
    let restricted = namespace(
        &[("byrnie.dev/inject", "enabled"), ("pod-security.kubernetes.io/enforce", "restricted")],
        &[],
    );
    let mut annotated = pod(json!({"containers": web}));
    annotated["metadata"]["annotations"] = json!({"byrnie.dev/workers": "many"});
    let mut weighed = pod(json!({"containers": web}));
    weighed["metadata"]["annotations"] = json!({"byrnie.dev/weight": "0"});
    let mut skipping = pod(json!({"containers": web}));
    skipping["metadata"]["annotations"] = json!({"byrnie.dev/skip-inbound-ports": "22"});
    let mut labelled = pod(json!({"containers": web}));
    labelled["metadata"]["labels"] = json!({"byrnie.dev/inject": "yes"});
    for (pod, namespace, words) in [
        (with("hostNetwork", json!(true)), &meshed(), "remove hostNetwork"),
        (with("x", json!(1)), &restricted, "pod-security.kubernetes.io/enforce=privileged"),
        (with("os", json!({"name": "windows"})), &meshed(), "linux only"),
        (with("securityContext", json!({"runAsUser": 14100})), &meshed(), "choose another user"),
        (
            with("containers", json!([{"name": "x", "ports": [{"containerPort": 14143}]}])),
            &meshed(),
            "choose another port",
        ),
        (
            with("containers", json!([{"name": "x", "livenessProbe": {"tcpSocket": {"port": "pg"}}}])),
            &meshed(),
            "no port of the container is named \"pg\"",
        ),
        (
            with("containers", json!([{"name": "x", "livenessProbe": {"tcpSocket": {"port": 70000}}}])),
            &meshed(),
            "not between 1 and 65535",
        ),
        (annotated, &meshed(), "not a number between 1 and 65535"),
        (weighed, &meshed(), "not a number between 1 and 65535"),
        (skipping, &meshed(), "does not allow opting out"),
        (labelled, &meshed(), "\"enabled\" or \"disabled\""),
    ] {
        let message = refused(&pod, namespace);
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn only_the_namespace_decides_about_opting_out() {
    let mut pod = pod(json!({"containers": [{"name": "web", "image": "web:1"}]}));
    pod["metadata"]["labels"] = json!({"byrnie.dev/inject": "disabled"});
    assert_eq!(
        inject(&pod, &meshed(), &settings(), Source::Operator),
        Err(Refusal::OptOut { namespace: "shop".into() })
    );
    let lenient = namespace(&[("byrnie.dev/inject", "enabled")], &[("byrnie.dev/allow-opt-out", "true")]);
    assert!(matches!(inject(&pod, &lenient, &settings(), Source::Operator), Ok(Outcome::Untouched(_))));
    let enforced = namespace(&[("byrnie.dev/inject", "enforced")], &[("byrnie.dev/allow-opt-out", "true")]);
    assert_eq!(
        inject(&pod, &enforced, &settings(), Source::Operator),
        Err(Refusal::OptOut { namespace: "shop".into() })
    );
    pod["metadata"] = json!({"annotations": {"byrnie.dev/skip-inbound-ports": "22, 2222"}});
    let args = injected(&pod, &lenient)["spec"]["initContainers"][0]["args"].to_string();
    assert!(args.contains("--skip-inbound-ports=22,2222"), "{args}");
}

#[test]
fn nobody_else_is_touched() {
    let plain = namespace(&[], &[]);
    let mut pod = pod(json!({"containers": [{"name": "web", "image": "web:1"}]}));
    assert!(matches!(inject(&pod, &plain, &settings(), Source::Operator), Ok(Outcome::Untouched(_))));
    pod["metadata"]["labels"] = json!({"byrnie.dev/inject": "enabled"});
    assert!(matches!(inject(&pod, &plain, &settings(), Source::Operator), Ok(Outcome::Injected(_))));
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert!(matches!(inject(&pod, &meshed(), &settings(), Source::Operator), Ok(Outcome::Untouched(_))));
}

#[test]
fn no_pod_makes_it_panic() {
    for odd in [
        "null",
        "[]",
        "\"pod\"",
        "{}",
        r#"{"metadata": 1, "spec": []}"#,
        r#"{"spec": {"containers": {"a": 1}, "initContainers": 3, "volumes": "x"}}"#,
        r#"{"metadata": {"labels": [], "annotations": "a"}, "spec": {"containers": [1, null, {"ports": 3, "livenessProbe": {"httpGet": {"port": {}}}}]}}"#,
    ] {
        let pod: Value = serde_json::from_str(odd).unwrap();
        let _ = inject(&pod, &meshed(), &settings(), Source::Operator);
    }
}
