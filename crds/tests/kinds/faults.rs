//! Every way in which a field can be wrong, and what is said about it.

use serde_json::{Value, json};

use crate::{edit, policy, problems, split, trust};

/// Each row: where, what (absent: removed), and the one problem that is reported.
type Row = (&'static str, Option<Value>, &'static str);

fn check(object: &Value, rows: &[Row]) {
    for (pointer, value, expected) in rows {
        let edited = edit(object.clone(), pointer, value.clone());
        assert_eq!(problems(&edited), [*expected], "{pointer} = {value:?}");
    }
}

#[test]
fn targets() {
    let not_yet = "is not supported yet; a policy targets Services, Pods or its whole namespace";
    let route = json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "pay"});
    check(
        &policy(),
        &[
            (
                "/spec/targetRefs/0",
                Some(route),
                &format!("spec.targetRefs[0].kind: HTTPRoute {not_yet}").leak()[..],
            ),
            (
                "/spec/targetRefs/0/kind",
                Some(json!("Deployment")),
                &format!("spec.targetRefs[0].kind: Deployment {not_yet}").leak()[..],
            ),
            (
                "/spec/targetRefs/0/group",
                Some(json!("apps")),
                "spec.targetRefs[0].group: must be empty: Service and Pod are core kinds",
            ),
            ("/spec/targetRefs/0/kind", None, "spec.targetRefs[0].kind: is required"),
            (
                "/spec/targetRefs/0/name",
                None,
                "spec.targetRefs[0]: a Service is targeted by name, without selector",
            ),
            (
                "/spec/targetRefs/0/name",
                Some(json!("Pay.x")),
                "spec.targetRefs[0].name: must be the name of a Service in this namespace: 1 to 63 of a-z, 0-9 and '-'",
            ),
            (
                "/spec/targetRefs/0/selector",
                Some(json!({})),
                "spec.targetRefs[0]: a Service is targeted by name, without selector",
            ),
            (
                "/spec/targetRefs/0/namespace",
                Some(json!("lab")),
                "spec.targetRefs[0].namespace: unknown field",
            ),
            (
                "/spec/targetRefs/1/selector",
                None,
                "spec.targetRefs[1]: Pods are targeted by selector, without name",
            ),
            (
                "/spec/targetRefs/1/name",
                Some(json!("x")),
                "spec.targetRefs[1]: Pods are targeted by selector, without name",
            ),
            (
                "/spec/targetRefs/1/selector/matchLables",
                Some(json!({})),
                "spec.targetRefs[1].selector.matchLables: unknown field, did you mean matchLabels?",
            ),
            (
                "/spec/targetRefs/1/selector/matchLabels/app",
                Some(json!("a b")),
                "spec.targetRefs[1].selector.matchLabels.app: \"a b\" is no label value",
            ),
            (
                "/spec/targetRefs/1/selector/matchLabels/a b",
                Some(json!("x")),
                "spec.targetRefs[1].selector.matchLabels.a b: is no label key",
            ),
            (
                "/spec/targetRefs/1/selector/matchExpressions/0/operator",
                Some(json!("in")),
                "spec.targetRefs[1].selector.matchExpressions[0].operator: \"in\" is not one of In, NotIn, Exists, DoesNotExist; did you mean In?",
            ),
            (
                "/spec/targetRefs/1/selector/matchExpressions/0/operator",
                Some(json!("Exists")),
                "spec.targetRefs[1].selector.matchExpressions[0]: In and NotIn need values; Exists and DoesNotExist have none",
            ),
            (
                "/spec/targetRefs/1/selector/matchExpressions/0/values",
                None,
                "spec.targetRefs[1].selector.matchExpressions[0]: In and NotIn need values; Exists and DoesNotExist have none",
            ),
            (
                "/spec/targetRefs/1/selector/matchExpressions/0/values/0",
                Some(json!("-")),
                "spec.targetRefs[1].selector.matchExpressions[0].values[0]: \"-\" is no label value",
            ),
            (
                "/spec/targetRefs/1/selector/matchExpressions/0/key",
                Some(json!("a/b/c")),
                "spec.targetRefs[1].selector.matchExpressions[0].key: \"a/b/c\" is no label key",
            ),
            (
                "/spec/targetRefs/1",
                Some(json!({"kind": "Service", "name": "payments"})),
                "spec.targetRefs[1]: names the same target as spec.targetRefs[0]",
            ),
            ("/spec/targetRefs", Some(json!([])), "spec.targetRefs: has 0 items, at least 1 wanted"),
            (
                "/spec/targetRefs",
                Some(json!(vec![json!({"kind": "Service", "name": "a"}); 17])),
                "spec.targetRefs: has 17 items, at most 16 possible",
            ),
            ("/spec/targetRefs", Some(Value::Null), "spec.targetRefs: must be a list, is null"),
        ],
    );
}

#[test]
fn mtls() {
    check(
        &policy(),
        &[
            (
                "/spec/mtls/mode",
                Some(json!("strict")),
                "spec.mtls.mode: \"strict\" is not one of Strict, Permissive; did you mean Strict?",
            ),
            (
                "/spec/mtls/mode",
                Some(json!("Disabled")),
                "spec.mtls.mode: \"Disabled\" is not one of Strict, Permissive",
            ),
            ("/spec/mtls/ports/0/port", Some(json!(0)), "spec.mtls.ports[0].port: must be 1 to 65535"),
            (
                "/spec/mtls/ports/0/port",
                Some(json!("http")),
                "spec.mtls.ports[0].port: must be a whole number, is a string",
            ),
            ("/spec/mtls/ports/0/mode", None, "spec.mtls.ports[0].mode: is required"),
            (
                "/spec/mtls/ports/1",
                Some(json!({"port": 9090, "mode": "Strict"})),
                "spec.mtls.ports[1]: names the same port as spec.mtls.ports[0]",
            ),
            ("/spec/mtls/port", Some(json!([])), "spec.mtls.port: unknown field, did you mean ports?"),
            ("/spec/mtls", Some(Value::Null), "spec.mtls: must be an object, is null"),
        ],
    );
}

#[test]
fn authorization() {
    const ONE: &str =
        "spec.authorization.rules[0].sources[0]: a source is exactly one of serviceAccount and anyone: true";
    check(
        &policy(),
        &[
            (
                "/spec/authorization/action",
                Some(json!("DENY")),
                "spec.authorization.action: \"DENY\" is not one of Allow, Deny; did you mean Deny?",
            ),
            (
                "/spec/authorization/enforcement",
                Some(json!("Permissive")),
                "spec.authorization.enforcement: \"Permissive\" is not one of Enforced, Audit",
            ),
            ("/spec/authorization/rules", None, "spec.authorization.rules: is required"),
            (
                "/spec/authorization",
                Some(json!({"action": "Deny", "rules": []})),
                "spec.authorization.rules: a Deny without rules denies nothing",
            ),
            (
                "/spec/authorization/rule",
                Some(json!([])),
                "spec.authorization.rule: unknown field, did you mean rules?",
            ),
            ("/spec/authorization/rules/0/sources", None, "spec.authorization.rules[0].sources: is required"),
            (
                "/spec/authorization/rules/0/sources",
                Some(Value::Null),
                "spec.authorization.rules[0].sources: must be a list, is null",
            ),
            ("/spec/authorization/rules/0/sources/0", Some(json!({})), ONE),
            ("/spec/authorization/rules/0/sources/0/anyone", Some(json!(true)), ONE),
            (
                "/spec/authorization/rules/1/sources/0/anyone",
                Some(json!(false)),
                "spec.authorization.rules[1].sources[0].anyone: must be true",
            ),
            (
                "/spec/authorization/rules/0/sources/0/spiffe",
                Some(json!("x")),
                "spec.authorization.rules[0].sources[0].spiffe: unknown field",
            ),
            (
                "/spec/authorization/rules/0/sources/0/serviceAccount/namespace",
                None,
                "spec.authorization.rules[0].sources[0].serviceAccount.namespace: is required",
            ),
            (
                "/spec/authorization/rules/0/sources/0/serviceAccount/namespace",
                Some(json!("*")),
                "spec.authorization.rules[0].sources[0].serviceAccount.namespace: namespace must be a DNS label: 1 to 63 bytes of a-z, 0-9 and '-'; `anyone: true` is everyone",
            ),
            (
                "/spec/authorization/rules/0/sources/0/serviceAccount/name",
                Some(json!("check*")),
                "spec.authorization.rules[0].sources[0].serviceAccount.name: service account must be a DNS subdomain: 1 to 253 bytes of a-z, 0-9, '-' and '.'; a name is whole, or * for the whole namespace",
            ),
            (
                "/spec/authorization/rules/0/ports",
                Some(json!([])),
                "spec.authorization.rules[0].ports: has 0 items, at least 1 wanted",
            ),
            (
                "/spec/authorization/rules/0/ports/0",
                Some(json!(65536)),
                "spec.authorization.rules[0].ports[0]: must be 1 to 65535",
            ),
            (
                "/spec/authorization/rules/0/port",
                Some(json!(8080)),
                "spec.authorization.rules[0].port: unknown field, did you mean ports?",
            ),
            (
                "/spec/authorization/rules/0/http",
                Some(json!([])),
                "spec.authorization.rules[0].http: has 0 items, at least 1 wanted",
            ),
            (
                "/spec/authorization/rules/0/http",
                Some(Value::Null),
                "spec.authorization.rules[0].http: must be a list, is null",
            ),
            (
                "/spec/authorization/rules",
                Some(json!(vec![json!({"sources": []}); 65])),
                "spec.authorization.rules: has 65 items, at most 64 possible",
            ),
        ],
    );
}

#[test]
fn requests() {
    check(
        &policy(),
        &[
            (
                "/spec/authorization/rules/0/http/0/mehtods",
                Some(json!(["GET"])),
                "spec.authorization.rules[0].http[0].mehtods: unknown field, did you mean methods?",
            ),
            (
                "/spec/authorization/rules/0/http/0/methods/0",
                Some(json!("get")),
                "spec.authorization.rules[0].http[0].methods[0]: methods are case-sensitive: write GET",
            ),
            (
                "/spec/authorization/rules/0/http/0/methods/0",
                Some(json!("GET ")),
                "spec.authorization.rules[0].http[0].methods[0]: \"GET \" is no HTTP method",
            ),
            (
                "/spec/authorization/rules/0/http/0/path",
                Some(json!("/charge")),
                "spec.authorization.rules[0].http[0].path: must be an object, is a string",
            ),
            (
                "/spec/authorization/rules/0/http/0/path/type",
                Some(json!("Prefix")),
                "spec.authorization.rules[0].http[0].path.type: \"Prefix\" is not one of Exact, PathPrefix",
            ),
            (
                "/spec/authorization/rules/0/http/0/path/type",
                None,
                "spec.authorization.rules[0].http[0].path.type: is required",
            ),
            (
                "/spec/authorization/rules/0/http/0/path/value",
                Some(json!("charge")),
                "spec.authorization.rules[0].http[0].path.value: no request can match it: path does not start with '/'",
            ),
            (
                "/spec/authorization/rules/0/http/0/path/value",
                Some(json!("/a/../b")),
                "spec.authorization.rules[0].http[0].path.value: no request can match it: path has a dot segment",
            ),
            (
                "/spec/authorization/rules/0/http/0/path/value",
                Some(json!("/%61")),
                "spec.authorization.rules[0].http[0].path.value: no request can match it: path has an escape of a character that needs none",
            ),
            (
                "/spec/authorization/rules/0/http/0/path/value",
                Some(json!("/a?x=1")),
                "spec.authorization.rules[0].http[0].path.value: no request can match it: a path ends before '?', queries are not looked at",
            ),
            (
                "/spec/authorization/rules/0/http/0/path/value",
                Some(json!("/a b")),
                "spec.authorization.rules[0].http[0].path.value: clients send ' ' as %20: write that",
            ),
            (
                "/spec/authorization/rules/0/http/0/path/value",
                Some(json!("/".repeat(1025))),
                "spec.authorization.rules[0].http[0].path.value: has 1025 characters, at most 1024 possible",
            ),
            (
                "/spec/authorization/rules/0/http/0/hosts/0",
                Some(json!("Pay.shop")),
                "spec.authorization.rules[0].http[0].hosts[0]: \"Pay.shop\" is no host: write pay.shop",
            ),
            (
                "/spec/authorization/rules/0/http/0/hosts/0",
                Some(json!("pay.shop:80")),
                "spec.authorization.rules[0].http[0].hosts[0]: \"pay.shop:80\" is no host: write the host without port",
            ),
            (
                "/spec/authorization/rules/0/http/0/hosts/0",
                Some(json!("pay.shop.")),
                "spec.authorization.rules[0].http[0].hosts[0]: \"pay.shop.\" is no host: write the host without the dot at its end",
            ),
            (
                "/spec/authorization/rules/0/http/0/hosts/0",
                Some(json!("*")),
                "spec.authorization.rules[0].http[0].hosts[0]: \"*\" is no host: leave hosts out to match every host",
            ),
            (
                "/spec/authorization/rules/0/http/0/hosts/0",
                Some(json!("a*.b")),
                "spec.authorization.rules[0].http[0].hosts[0]: \"a*.b\" is no host: a host is a DNS name, or *. and a DNS name for every name below it",
            ),
            (
                "/spec/authorization/rules/0/http/0/headers/0/name",
                Some(json!("a b")),
                "spec.authorization.rules[0].http[0].headers[0].name: \"a b\" is no header name",
            ),
            (
                "/spec/authorization/rules/0/http/0/headers/0/name",
                Some(json!("Host")),
                "spec.authorization.rules[0].http[0].headers[0].name: use hosts: HTTP/2 requests have no Host header",
            ),
            (
                "/spec/authorization/rules/0/http/0/headers/0/name",
                Some(json!("byrnie-client-id")),
                "spec.authorization.rules[0].http[0].headers[0].name: is written by the proxy alone; who calls is a matter of sources",
            ),
            (
                "/spec/authorization/rules/0/http/0/headers/0/type",
                Some(json!("Regex")),
                "spec.authorization.rules[0].http[0].headers[0].type: \"Regex\" is not one of Exact, Prefix, Present",
            ),
            (
                "/spec/authorization/rules/0/http/0/headers/0/value",
                None,
                "spec.authorization.rules[0].http[0].headers[0]: Exact and Prefix need a value; Present has none",
            ),
            (
                "/spec/authorization/rules/0/http/0/headers/1/value",
                Some(json!("x")),
                "spec.authorization.rules[0].http[0].headers[1]: Exact and Prefix need a value; Present has none",
            ),
            (
                "/spec/authorization/rules/0/http/0/headers/0/value",
                Some(json!(" blue")),
                "spec.authorization.rules[0].http[0].headers[0].value: no header has such a value: visible ASCII, without space at the ends",
            ),
            (
                "/spec/authorization/rules/0/http/0/headers/0/value",
                Some(json!("a\nb")),
                "spec.authorization.rules[0].http[0].headers[0].value: no header has such a value: visible ASCII, without space at the ends",
            ),
            (
                "/spec/authorization/rules/0/http/0/headers/0",
                Some(json!({"name": "x", "type": "Prefix", "value": ""})),
                "spec.authorization.rules[0].http[0].headers[0].value: an empty prefix: use type Present",
            ),
        ],
    );
}

#[test]
fn traffic() {
    const DURATION: &str =
        "is no duration: write up to four numbers with unit h, m, s or ms, as in 10s or 1h30m";
    check(
        &policy(),
        &[
            (
                "/spec/traffic/timeouts/request",
                Some(json!("10")),
                &format!("spec.traffic.timeouts.request: {DURATION}").leak()[..],
            ),
            (
                "/spec/traffic/timeouts/idle",
                Some(json!("1d")),
                &format!("spec.traffic.timeouts.idle: {DURATION}").leak()[..],
            ),
            (
                "/spec/traffic/timeouts/idle",
                Some(json!(5)),
                "spec.traffic.timeouts.idle: must be a string, is a whole number",
            ),
            (
                "/spec/traffic/timeouts/backendRequest",
                Some(json!("1s")),
                "spec.traffic.timeouts.backendRequest: unknown field",
            ),
            (
                "/spec/traffic/protocols/0/protocol",
                Some(json!("opaque")),
                "spec.traffic.protocols[0].protocol: \"opaque\" is not one of HTTP1, HTTP2, GRPC, TLS, Opaque; did you mean Opaque?",
            ),
            (
                "/spec/traffic/protocols/0/port",
                Some(json!(70000)),
                "spec.traffic.protocols[0].port: must be 1 to 65535",
            ),
            (
                "/spec/traffic/protocols/1",
                Some(json!({"port": 3306, "protocol": "TLS"})),
                "spec.traffic.protocols[1]: names the same port as spec.traffic.protocols[0]",
            ),
            ("/spec/traffic", Some(json!({})), "spec.traffic: needs at least one of timeouts and protocols"),
            ("/spec/traffic/retry", Some(json!({"attempts": 2})), "spec.traffic.retry: unknown field"),
        ],
    );
}

#[test]
fn policies() {
    check(
        &policy(),
        &[
            (
                "/spec/authorisation",
                Some(json!({})),
                "spec.authorisation: unknown field, did you mean authorization?",
            ),
            ("/spec/targetRef", Some(json!({})), "spec.targetRef: unknown field, did you mean targetRefs?"),
            ("/spec", Some(json!({})), "spec: needs at least one of mtls, authorization and traffic"),
            ("/spec", None, "spec: is required"),
            ("/sepc", Some(json!({})), "sepc: unknown field, did you mean spec?"),
            ("/apiVersion", Some(json!("byrnie.dev/v1")), "apiVersion: \"v1\" is not served; v1alpha1 is"),
            (
                "/kind",
                Some(json!("MeshPolice")),
                "byrnie.dev/v1alpha1 \"MeshPolice\" is not MeshPolicy, TrafficSplit or MeshTrust of a known group",
            ),
        ],
    );
}

#[test]
fn splits() {
    check(
        &split(),
        &[
            ("/spec/service", None, "spec.service: is required"),
            (
                "/spec/service",
                Some(json!("web.lab")),
                "spec.service: lab is another namespace: a split is about Services of its own",
            ),
            (
                "/spec/service",
                Some(json!("web.shop.svc.example.org")),
                "spec.service: \"web.shop.svc.example.org\" is no Service: write its name, or NAME.NAMESPACE.svc.cluster.local",
            ),
            (
                "/spec/service",
                Some(json!("Web")),
                "spec.service: \"Web\" is no Service: write its name, or NAME.NAMESPACE.svc.cluster.local",
            ),
            ("/spec/backends", Some(json!([])), "spec.backends: has 0 items, at least 1 wanted"),
            (
                "/spec/backends/0/service",
                Some(json!("v1.lab.svc")),
                "spec.backends[0].service: lab is another namespace: a split is about Services of its own",
            ),
            (
                "/spec/backends/0/service",
                Some(json!("web-v2.shop")),
                "spec.backends[1]: names the same Service as spec.backends[0]",
            ),
            ("/spec/backends/0/weight", None, "spec.backends[0].weight: is required"),
            ("/spec/backends/0/weight", Some(json!(-1)), "spec.backends[0].weight: must be 0 to 1000000000"),
            (
                "/spec/backends/0/weight",
                Some(json!(0.5)),
                "spec.backends[0].weight: must be a whole number, is a fraction",
            ),
            (
                "/spec/backends/0/weight",
                Some(json!("90")),
                "spec.backends[0].weight: must be a whole number, is a string",
            ),
            (
                "/spec/backends/0/weigth",
                Some(json!(1)),
                "spec.backends[0].weigth: unknown field, did you mean weight?",
            ),
            (
                "/spec/matches",
                Some(json!([{"kind": "HTTPRouteGroup", "name": "beta"}])),
                "spec.matches: is not supported yet: all requests would be split; an HTTPRoute can match requests",
            ),
            (
                "/apiVersion",
                Some(json!("split.smi-spec.io/v1")),
                "cannot convert split.smi-spec.io/v1: only TrafficSplit of split.smi-spec.io/v1alpha1 to v1alpha4 is known",
            ),
        ],
    );
    let oldest = edit(split(), "/apiVersion", Some(json!("split.smi-spec.io/v1alpha1")));
    check(
        &oldest,
        &[
            (
                "/spec/backends/0/weight",
                Some(json!("many")),
                "spec.backends[0].weight: \"many\" is no weight: write a whole number or a Quantity, 0 to 1M",
            ),
            (
                "/spec/backends/0/weight",
                Some(json!("1001k")),
                "spec.backends[0].weight: \"1001k\" is no weight: write a whole number or a Quantity, 0 to 1M",
            ),
            (
                "/spec/backends/1/weight",
                Some(json!(-1)),
                "spec.backends[1].weight: -1 is no weight: write a whole number or a Quantity, 0 to 1M",
            ),
        ],
    );
}

#[test]
fn trusts() {
    check(
        &trust(),
        &[
            ("/spec/trustDomain", None, "spec.trustDomain: is required"),
            (
                "/spec/trustDomain",
                Some(json!("Cluster.local")),
                "spec.trustDomain: trust domain must be 1 to 255 bytes of a-z, 0-9, '-' and '.', in non-empty labels",
            ),
            ("/spec/leafLifetime", Some(json!("30s")), "spec.leafLifetime: must be 1m to 168h"),
            ("/spec/leafLifetime", Some(json!("169h")), "spec.leafLifetime: must be 1m to 168h"),
            (
                "/spec/rootLifetime",
                Some(json!("47h")),
                "spec.rootLifetime: must be at least twice leafLifetime",
            ),
            (
                "/spec/rootLifetime",
                Some(json!("1y")),
                "spec.rootLifetime: is no duration: write up to four numbers with unit h, m, s or ms, as in 10s or 1h30m",
            ),
            ("/spec/source", Some(json!({})), "spec.source: is exactly one of selfManaged and secret"),
            (
                "/spec/source/secret",
                Some(json!({"name": "x"})),
                "spec.source: is exactly one of selfManaged and secret",
            ),
            ("/spec/source", Some(json!({"secret": {}})), "spec.source.secret.name: is required"),
            ("/spec/source/selfManaged/keys", Some(json!(1)), "spec.source.selfManaged.keys: unknown field"),
            (
                "/spec/leafLifeTime",
                Some(json!("1h")),
                "spec.leafLifeTime: unknown field, did you mean leafLifetime?",
            ),
        ],
    );
}

/// Every place of an object, below its spec.
fn places(value: &Value, pointer: &str, found: &mut Vec<String>) {
    found.push(pointer.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, v)| places(v, &format!("{pointer}/{name}"), found))
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, v)| places(v, &format!("{pointer}/{i}"), found))
        }
        _ => {}
    }
}

/// `/spec/rules/0/name` as `spec.rules[0].name`.
fn path(pointer: &str) -> String {
    pointer.split('/').skip(1).fold(String::new(), |path, step| match step.parse::<usize>() {
        Ok(index) => format!("{path}[{index}]"),
        Err(_) if path.is_empty() => step.into(),
        Err(_) => format!("{path}.{step}"),
    })
}

#[test]
fn a_value_of_another_type_is_named_wherever_it_stands() {
    let another = [Value::Null, json!(true), json!(1.5), json!({"odd": 1}), json!([[]]), json!("")];
    let mut checked = 0;
    for object in [policy(), split(), trust()] {
        let mut pointers = Vec::new();
        places(&object["spec"], "/spec", &mut pointers);
        for pointer in &pointers[1..] {
            let right = object.pointer(pointer).unwrap();
            for wrong in
                another.iter().filter(|w| std::mem::discriminant(*w) != std::mem::discriminant(right))
            {
                let found = problems(&edit(object.clone(), pointer, Some(wrong.clone())));
                let about = path(pointer);
                assert!(found.iter().any(|p| p.starts_with(&about)), "{about} = {wrong}: {found:?}");
                checked += 1;
            }
        }
    }
    assert!(checked > 300, "{checked}");
}
