package e2e

import "fmt"

// allow is a MeshPolicy with one rule, given as the rule's fields.
func allow(rule string) string {
	return fmt.Sprintf(`{apiVersion: byrnie.dev/v1alpha1, kind: MeshPolicy, metadata: {name: tried}, spec: {authorization: {rules: [{%s}]}}}`, rule)
}

func policySpec(spec string) string {
	return fmt.Sprintf(`{apiVersion: byrnie.dev/v1alpha1, kind: MeshPolicy, metadata: {name: tried}, spec: {%s}}`, spec)
}

func splitSpec(version, spec string) string {
	return fmt.Sprintf(`{apiVersion: split.smi-spec.io/%s, kind: TrafficSplit, metadata: {name: tried}, spec: {%s}}`, version, spec)
}

func trustSpec(spec string) string {
	return fmt.Sprintf(`{apiVersion: byrnie.dev/v1alpha1, kind: MeshTrust, metadata: {name: tried}, spec: {%s}}`, spec)
}

// faults have the right types and make no sense, or would mean something else than their author thinks.
var faults = []struct {
	name, object string
	says         []string
}{
	{"nothing said", policySpec(``), []string{"spec", "mtls", "authorization", "traffic"}},
	{"no sources", allow(`ports: [8080]`), []string{"sources"}},
	{"a null in place of http", allow(`sources: [{anyone: true}], http: null`), []string{"http"}},
	{"empty http", allow(`sources: [{anyone: true}], http: []`), []string{"http"}},
	{"empty ports", allow(`sources: [{anyone: true}], ports: []`), []string{"ports"}},
	{"port 0", allow(`sources: [{anyone: true}], ports: [0]`), []string{"ports"}},
	{"port 65536", allow(`sources: [{anyone: true}], ports: [65536]`), []string{"ports"}},
	{"anyone: false", allow(`sources: [{anyone: false}]`), []string{"anyone"}},
	{"two sources in one", allow(`sources: [{anyone: true, serviceAccount: {namespace: a, name: b}}]`), []string{"exactly one"}},
	{"a source of nothing", allow(`sources: [{}]`), []string{"exactly one"}},
	{"part of a name", allow(`sources: [{serviceAccount: {namespace: a, name: "web-*"}}]`), []string{"name", "*"}},
	{"any namespace", allow(`sources: [{serviceAccount: {namespace: "*", name: web}}]`), []string{"namespace"}},
	{"a method in lower case", allow(`sources: [{anyone: true}], http: [{methods: [get]}]`), []string{"methods", "GET"}},
	{"a misspelt field", allow(`sources: [{anyone: true}], http: [{mehtods: [GET]}]`), []string{"mehtods", "methods"}},
	{"a path with dots", allow(`sources: [{anyone: true}], http: [{path: {type: Exact, value: /a/../b}}]`), []string{"path.value"}},
	{"a path with a query", allow(`sources: [{anyone: true}], http: [{path: {type: Exact, value: "/a?b=c"}}]`), []string{"path.value", "?"}},
	{"a relative path", allow(`sources: [{anyone: true}], http: [{path: {type: Exact, value: a}}]`), []string{"path.value"}},
	{"a regular expression", allow(`sources: [{anyone: true}], http: [{path: {type: RegularExpression, value: /a}}]`), []string{"path.type"}},
	{"a host with port", allow(`sources: [{anyone: true}], http: [{hosts: ["a.b:80"]}]`), []string{"hosts", "port"}},
	{"every host", allow(`sources: [{anyone: true}], http: [{hosts: ["*"]}]`), []string{"hosts"}},
	{"a header of the proxy's own", allow(`sources: [{anyone: true}], http: [{headers: [{name: byrnie-client-id, value: x}]}]`), []string{"headers", "sources"}},
	{"the Host header", allow(`sources: [{anyone: true}], http: [{headers: [{name: Host, value: x}]}]`), []string{"headers", "hosts"}},
	{"a header without value", allow(`sources: [{anyone: true}], http: [{headers: [{name: x}]}]`), []string{"headers", "value"}},
	{"an unknown action", policySpec(`authorization: {action: Log, rules: []}`), []string{"action"}},
	{"an unknown enforcement", policySpec(`authorization: {enforcement: Maybe, rules: []}`), []string{"enforcement"}},
	{"a Deny of nothing", policySpec(`authorization: {action: Deny, rules: []}`), []string{"Deny"}},
	{"an unknown mode", policySpec(`mtls: {mode: Sometimes}`), []string{"mode"}},
	{"a port with two modes", policySpec(`mtls: {ports: [{port: 80, mode: Strict}, {port: 80, mode: Permissive}]}`), []string{"ports"}},
	{"a duration without unit", policySpec(`traffic: {timeouts: {request: "10"}}`), []string{"request"}},
	{"an unknown protocol", policySpec(`traffic: {protocols: [{port: 80, protocol: Carrier}]}`), []string{"protocol"}},
	{"no targets", policySpec(`targetRefs: [], mtls: {}`), []string{"targetRefs"}},
	{"17 targets", policySpec(`targetRefs: [` + repeated(17, `{kind: Service, name: s%d}`) + `], mtls: {}`), []string{"targetRefs"}},
	{"a target of another kind", policySpec(`targetRefs: [{kind: Deployment, name: a}], mtls: {}`), []string{"kind", "Service"}},
	{"a Service by labels", policySpec(`targetRefs: [{kind: Service, selector: {}}], mtls: {}`), []string{"Service", "name"}},
	{"65 rules", policySpec(`authorization: {rules: [` + repeated(65, `{name: r%d, sources: []}`) + `]}`), []string{"rules"}},

	{"a split without backends", splitSpec("v1alpha4", `service: a, backends: []`), []string{"backends"}},
	{"a split of nothing", splitSpec("v1alpha4", `backends: [{service: b, weight: 1}]`), []string{"service"}},
	{"a weight below zero", splitSpec("v1alpha4", `service: a, backends: [{service: b, weight: -1}]`), []string{"weight"}},
	{"half a weight", splitSpec("v1alpha4", `service: a, backends: [{service: b, weight: 0.5}]`), []string{"weight"}},
	{"a backend twice", splitSpec("v1alpha4", `service: a, backends: [{service: b, weight: 1}, {service: b, weight: 2}]`), []string{"backends"}},
	{"no name of a Service", splitSpec("v1alpha4", `service: "A B", backends: [{service: b, weight: 1}]`), []string{"service"}},
	{"another namespace", splitSpec("v1alpha4", `service: a.kube-system, backends: [{service: b, weight: 1}]`), []string{"service", "kube-system"}},
	{"a misspelt weight", splitSpec("v1alpha2", `service: a, backends: [{service: b, wieght: 1}]`), []string{"weight"}},
	{"a Quantity of nonsense", splitSpec("v1alpha1", `service: a, backends: [{service: b, weight: lots}]`), []string{"weight"}},
	{"a Quantity in v1alpha2", splitSpec("v1alpha2", `service: a, backends: [{service: b, weight: 500m}]`), []string{"weight"}},

	{"a trust domain in capitals", trustSpec(`trustDomain: Example.Org, source: {selfManaged: {}}`), []string{"trustDomain"}},
	{"leaves of a second", trustSpec(`trustDomain: a, leafLifetime: 1s, source: {selfManaged: {}}`), []string{"leafLifetime"}},
	{"roots shorter than leaves", trustSpec(`trustDomain: a, leafLifetime: 24h, rootLifetime: 24h, source: {selfManaged: {}}`), []string{"rootLifetime"}},
	{"federation with itself", trustSpec(`trustDomain: a, source: {selfManaged: {}}, federation: [{trustDomain: a, roots: "-----BEGIN CERTIFICATE-----"}]`), []string{"federation", "own"}},
	{"federation without roots", trustSpec(`trustDomain: a, source: {selfManaged: {}}, federation: [{trustDomain: b, roots: none}]`), []string{"federation", "roots", "PEM"}},
	{"federation twice", trustSpec(`trustDomain: a, source: {selfManaged: {}}, federation: [{trustDomain: b, roots: x}, {trustDomain: b, roots: x}]`), []string{"federation"}},
	{"two sources of the root", trustSpec(`trustDomain: a, source: {selfManaged: {}, secret: {name: b}}`), []string{"source"}},
}

// repeated joins count items, numbered.
func repeated(count int, format string) string {
	text := ""
	for i := range count {
		text += fmt.Sprintf(format, i) + ", "
	}
	return text
}
