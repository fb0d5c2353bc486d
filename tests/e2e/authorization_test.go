package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"byrnie.dev/apps/load"
	"byrnie.dev/e2e/harness"
)

// authorization tries policies one after the other on one server, which ann and bob of its own namespace
// and cat of another call.
func (s *suite) authorization(t *testing.T) {
	home, abroad := s.Space(t, "home", harness.Meshed), s.Space(t, "abroad", harness.Meshed)
	server := harness.App{Name: "server"}
	home.Deploy(server, harness.Client("ann"), harness.Client("bob"))
	abroad.Deploy(harness.Client("cat"))
	home.Ready(server)
	callers := map[string]harness.Place{
		"ann": home.In(home.Ready(harness.Client("ann"))[0]), "bob": home.In(home.Ready(harness.Client("bob"))[0]),
		"cat": abroad.In(abroad.Ready(harness.Client("cat"))[0]),
	}
	for _, c := range authorizationCases {
		t.Run(c.name, func(t *testing.T) {
			home := home.For(t)
			home.Apply(policy(c.spec, home.Name, abroad.Name))
			home.Programmed(harness.MeshPolicies, "tried")
			for _, try := range c.tries {
				port := try.port
				if port == 0 {
					port = 8080
				}
				method := try.method
				if method == "" {
					method = "GET"
				}
				flags := []string{"--method", method, "--header", secretHeader}
				if try.header != "" {
					flags = append(flags, "--header", try.header)
				}
				url := fmt.Sprintf("http://server.%s:%d%s", home.Name, port, try.path)
				answers(t, callers[try.from], url, try.status, try.reason, flags...)
			}
			home.Remove(harness.MeshPolicies, "tried")
		})
	}
	t.Run("audit lets pass and records", func(t *testing.T) { audit(t, home.For(t), callers["bob"]) })
	t.Run("not HTTP", func(t *testing.T) { opaque(t, home.For(t), callers) })
}

// policy fills in the namespaces: HOME and ABROAD.
func policy(spec, home, abroad string) string {
	text := "apiVersion: byrnie.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: tried}\nspec:\n" +
		"  targetRefs: [{group: \"\", kind: Service, name: server}]\n  authorization:\n" + spec
	return strings.NewReplacer("HOME", home, "ABROAD", abroad).Replace(text)
}

type try struct {
	from   string
	method string
	port   int
	path   string
	header string
	status int
	reason string
}

const noRule, denied = "no-rule-allows", "denied-by-rule"

var authorizationCases = []struct {
	name, spec string
	tries      []try
}{
	{"allow one ServiceAccount", `
    rules:
    - sources: [{serviceAccount: {namespace: HOME, name: ann}}]
`, []try{
		{from: "ann", path: "/", status: 200}, {from: "bob", path: "/", status: 403, reason: noRule}, {from: "cat", path: "/", status: 403, reason: noRule},
	}},
	{"allow a namespace", `
    rules:
    - sources: [{serviceAccount: {namespace: ABROAD, name: "*"}}]
`, []try{
		{from: "cat", path: "/", status: 200}, {from: "ann", path: "/", status: 403, reason: noRule},
	}},
	{"allow nobody", `
    rules: [{sources: []}]
`, []try{{from: "ann", path: "/", status: 403, reason: noRule}}},
	{"deny one ServiceAccount", `
    action: Deny
    rules:
    - sources: [{serviceAccount: {namespace: HOME, name: bob}}]
`, []try{
		{from: "ann", path: "/", status: 200}, {from: "bob", path: "/", status: 403, reason: denied}, {from: "cat", path: "/", status: 200},
	}},
	{"deny a namespace", `
    action: Deny
    rules:
    - sources: [{serviceAccount: {namespace: ABROAD, name: "*"}}]
`, []try{{from: "cat", path: "/", status: 403, reason: denied}, {from: "bob", path: "/", status: 200}}},
	{"by port", `
    rules:
    - sources: [{serviceAccount: {namespace: HOME, name: ann}}]
      ports: [9090]
    - sources: [{serviceAccount: {namespace: HOME, name: bob}}]
      ports: [8080]
`, []try{
		{from: "bob", path: "/", status: 200}, {from: "ann", path: "/", status: 403, reason: noRule},
		{from: "bob", port: 8081, path: "/", status: 200}, {from: "ann", port: 8081, path: "/", status: 403, reason: noRule},
	}},
	{"by method", `
    rules:
    - sources: [{anyone: true}]
      http: [{methods: [GET, HEAD]}]
`, []try{
		{from: "ann", path: "/", status: 200}, {from: "ann", method: "HEAD", path: "/", status: 200},
		{from: "ann", method: "POST", path: "/", status: 403, reason: noRule}, {from: "ann", method: "get", path: "/", status: 403, reason: noRule},
	}},
	{"by path", `
    rules:
    - sources: [{anyone: true}]
      http: [{path: {type: PathPrefix, value: /shop}}, {path: {type: Exact, value: /status}}]
`, []try{
		{from: "ann", path: "/shop", status: 200}, {from: "ann", path: "/shop/items?of=1", status: 200}, {from: "ann", path: "/status", status: 200},
		{from: "ann", path: "/shopping", status: 403, reason: noRule}, {from: "ann", path: "/status/x", status: 403, reason: noRule},
		{from: "ann", path: "/SHOP", status: 403, reason: noRule},
		{from: "ann", path: "/shop/../admin", status: 400, reason: "ambiguous-path"}, {from: "ann", path: "/shop/%2e%2e/admin", status: 400, reason: "ambiguous-path"},
		{from: "ann", path: "/shop%2Fitems", status: 400, reason: "ambiguous-path"}, {from: "ann", path: "//shop", status: 400, reason: "ambiguous-path"},
	}},
	{"deny a path", `
    action: Deny
    rules:
    - sources: [{serviceAccount: {namespace: HOME, name: bob}}]
      http: [{path: {type: PathPrefix, value: /admin}}]
`, []try{
		{from: "bob", path: "/", status: 200}, {from: "bob", path: "/admin/x", status: 403, reason: denied}, {from: "ann", path: "/admin/x", status: 200},
		{from: "bob", path: "/Admin", status: 403, reason: denied}, {from: "bob", path: "/a/../admin", status: 400, reason: "ambiguous-path"},
	}},
	{"by header", `
    rules:
    - sources: [{anyone: true}]
      http: [{headers: [{name: x-tenant, value: blue}]}, {headers: [{name: x-tenant, type: Prefix, value: green-}]}]
`, []try{
		{from: "ann", path: "/", header: "x-tenant=blue", status: 200}, {from: "ann", path: "/", header: "X-Tenant=green-7", status: 200},
		{from: "ann", path: "/", header: "x-tenant=red", status: 403, reason: noRule}, {from: "ann", path: "/", status: 403, reason: noRule},
	}},
	{"by host", `
    rules:
    - sources: [{anyone: true}]
      http: [{hosts: [shop.example.org]}]
`, []try{
		{from: "ann", path: "/", header: "Host=shop.example.org", status: 200}, {from: "ann", path: "/", header: "Host=Shop.Example.Org:8080", status: 200},
		{from: "ann", path: "/", header: "Host=example.org", status: 403, reason: noRule},
	}},
}

// audit applies a policy that would refuse bob, and looks for the record of it in the server proxy's log.
func audit(t *testing.T, space *harness.Space, bob harness.Place) {
	space.Apply(policy(`
    enforcement: Audit
    rules:
    - sources: [{serviceAccount: {namespace: HOME, name: ann}}]
`, space.Name, ""))
	space.Programmed(harness.MeshPolicies, "tried")
	answers(t, bob, fmt.Sprintf("http://server.%s:8080/audited", space.Name), 200, "", "--header", secretHeader)
	pod := space.Ready(harness.App{Name: "server"})[0]
	space.Eventually(5*time.Second, "a line about it in the proxy's log", func(ctx context.Context) error {
		for line := range strings.Lines(space.Logs(ctx, pod.Name, harness.ProxyContainer, 100)) {
			if strings.Contains(line, `"audit"`) && strings.Contains(line, space.Name+"/tried") && strings.Contains(line, noRule) {
				return nil
			}
		}
		return fmt.Errorf("there is none")
	})
	space.Remove(harness.MeshPolicies, "tried")
}

// opaque: a policy by ServiceAccount holds for bytes that are not HTTP; http rules refuse such bytes.
func opaque(t *testing.T, space *harness.Space, callers map[string]harness.Place) {
	tcp := func(caller string) load.Report {
		return callers[caller].For(t).Load(load.Options{
			Kind: load.TCP, Target: fmt.Sprintf("server.%s:7070", space.Name), Requests: 10, Send: canaries.Secret + `\n`,
			Timeout: load.Duration(5 * time.Second),
		})
	}
	space.Apply(policy(`
    rules:
    - sources: [{serviceAccount: {namespace: HOME, name: ann}}]
`, space.Name, ""))
	space.Programmed(harness.MeshPolicies, "tried")
	if report := tcp("ann"); report.OK != 10 {
		t.Errorf("ann is allowed, but: %v", report.Errors)
	}
	if report := tcp("bob"); report.OK != 0 {
		t.Errorf("bob is not allowed, but %d of 10 were answered", report.OK)
	}
	for caller, status := range map[string]string{"ann": "OK", "bob": "PermissionDenied"} {
		report := callers[caller].For(t).Load(load.Options{
			Kind: load.GRPC, Target: fmt.Sprintf("server.%s:9090", space.Name), Call: "bidi", Requests: 10, Headers: []string{secretHeader},
		})
		if report.Count(status) != 10 {
			t.Errorf("gRPC from %s: want %s, have %+v %v", caller, status, report.Statuses, report.Errors)
		}
	}
	space.Apply(policy(`
    rules:
    - sources: [{serviceAccount: {namespace: HOME, name: ann}}]
      http: [{methods: [GET]}]
`, space.Name, ""))
	space.Programmed(harness.MeshPolicies, "tried")
	if report := tcp("ann"); report.OK != 0 {
		t.Errorf("the port has http rules, but %d of 10 opaque requests were answered", report.OK)
	}
	space.Remove(harness.MeshPolicies, "tried")
}

// revocation: what a policy no longer allows ends on connections that are open already.
func (s *suite) revocation(t *testing.T) {
	space := s.Space(t, "revocation", harness.Meshed)
	server, client := harness.App{Name: "server"}, harness.Client("client")
	space.Deploy(server, client)
	space.Ready(server)
	from := space.In(space.Ready(client)[0])
	tcp := from.Start(load.Options{Kind: load.TCP, Target: "server:7070", Rate: 20, Duration: load.Duration(time.Minute),
		Send: canaries.Secret + `\n`, Timeout: load.Duration(3 * time.Second)})
	http := from.Start(load.Options{Kind: load.HTTP, Target: "http://server:8080/", Rate: 20, Duration: load.Duration(time.Minute), Headers: []string{secretHeader}})
	space.Eventually(20*time.Second, "traffic", func(context.Context) error {
		if report := tcp.Read(); report.OK < 10 || report.Failed() > 0 {
			return fmt.Errorf("TCP: %+v %v", report.Statuses, report.Errors)
		}
		if report := http.Read(); report.OK < 10 || report.Failed() > 0 {
			return fmt.Errorf("HTTP: %+v %v", report.Statuses, report.Errors)
		}
		return nil
	})
	space.Apply(denyAll("server"))
	space.Eventually(10*time.Second, "the end of both", func(context.Context) error {
		before := [2]int64{tcp.Read().OK, http.Read().OK}
		time.Sleep(time.Second)
		if after := [2]int64{tcp.Read().OK, http.Read().OK}; after != before {
			return fmt.Errorf("still served: %v, a second later %v", before, after)
		}
		return nil
	})
	if report := http.Stop(); report.Count("403") == 0 {
		t.Errorf("no 403 among %+v", report.Statuses)
	}
	tcp.Stop()
}
