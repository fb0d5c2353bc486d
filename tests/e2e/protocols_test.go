package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"byrnie.dev/apps/load"
	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
)

// protocolLoads is one load for each protocol that the echo server speaks, on each way to declare it.
func protocolLoads(server, canary string) map[string]load.Options {
	header := []string{"x-canary=" + canary}
	return map[string]load.Options{
		"HTTP/1.1":             {Kind: load.HTTP, Target: "http://" + server + ":8080/", Headers: header, GroupBy: []string{"clientId", "pod"}},
		"HTTP/1.1 undeclared":  {Kind: load.HTTP, Target: "http://" + server + ":8081/", Headers: header, GroupBy: []string{"clientId", "pod"}},
		"HTTP/1.1 large":       {Kind: load.HTTP, Target: "http://" + server + ":8080/sink", BodyBytes: 300_000, Headers: header},
		"h2c":                  {Kind: load.HTTP, Target: "http://" + server + ":8080/", H2C: true, Streams: 4, Headers: header, GroupBy: []string{"clientId", "pod"}},
		"h2c undeclared":       {Kind: load.HTTP, Target: "http://" + server + ":8081/", H2C: true, Streams: 4, Headers: header, GroupBy: []string{"clientId"}},
		"gRPC unary":           {Kind: load.GRPC, Target: server + ":9090", Call: "unary", Streams: 4, Headers: header, GroupBy: []string{"clientId"}},
		"gRPC server stream":   {Kind: load.GRPC, Target: server + ":9090", Call: "server", Headers: header, GroupBy: []string{"clientId"}},
		"gRPC client stream":   {Kind: load.GRPC, Target: server + ":9090", Call: "client", BodyBytes: 1000, Headers: header, GroupBy: []string{"clientId"}},
		"gRPC bidirectional":   {Kind: load.GRPC, Target: server + ":9090", Call: "bidi", Headers: header, GroupBy: []string{"clientId"}},
		"WebSocket":            {Kind: load.WS, Target: "ws://" + server + ":8080/ws", Headers: header, GroupBy: []string{"clientId"}},
		"TCP, client first":    {Kind: load.TCP, Target: server + ":7070", Send: canary + `\n`},
		"TCP, server first":    {Kind: load.TCP, Target: server + ":7071", Send: canary + `\n`, Banner: "220 byrnie-echo"},
		"TLS of the app's own": {Kind: load.TLS, Target: "https://" + server + ":8443/", Headers: header},
	}
}

// tryProtocols runs every load and checks that nothing fails and who the server says is calling.
func tryProtocols(t *testing.T, from harness.Place, server, canary, caller string) {
	t.Helper()
	for name, options := range protocolLoads(server, canary) {
		t.Run(name, func(t *testing.T) {
			options.Connections, options.Requests = 4, 200
			report := from.For(t).Load(options)
			if report.OK != 200 || report.Failed() != 0 {
				t.Fatalf("%d of 200 are ok: %+v %v", report.OK, report.Statuses, report.Errors)
			}
			kept(t, report, 4)
			if who, asked := report.Groups["clientId"]; asked && who[caller] != 200 {
				t.Errorf("the server was called by %v, not by %q", who, caller)
			}
			if pods, asked := report.Groups["pod"]; asked && len(pods) != 2 && caller != "" {
				t.Errorf("%d pods of 2 answered: %v", len(pods), pods)
			}
		})
	}
}

// kept checks that connections were kept alive. Go's client opens one more where its own writer was not
// scheduled for 50 ms, which a busy machine makes happen now and then.
func kept(t *testing.T, report load.Report, connections int64) {
	t.Helper()
	if report.Opened < connections || report.Opened > 2*connections {
		t.Errorf("%d requests opened %d connections, not %d", report.Requests, report.Opened, connections)
	}
}

func (s *suite) protocolsInClear(t *testing.T) {
	space := s.Space(t, "clear")
	server := harness.App{Name: "server", Replicas: 2}
	client := harness.Client("client")
	space.Deploy(server, client)
	space.Ready(server)
	tryProtocols(t, space.In(space.Ready(client)[0]), "server", canaries.Open, "")
	if counts := s.watch.Counts(t); counts.Found["open"] == 0 {
		t.Errorf("the capture on %s does not see what passes in clear, so it proves nothing: %+v", counts.Interface, counts)
	}
}

func (s *suite) protocols(t *testing.T) {
	space := s.Space(t, "protocols", harness.Meshed)
	server := harness.App{Name: "server", Replicas: 2}
	client := harness.Client("client")
	space.Deploy(server, client)
	pods := space.Ready(server)
	if pods[0].Spec.NodeName == pods[1].Spec.NodeName && len(s.Nodes(t)) > 1 {
		t.Errorf("both servers are on %s: this is no test of two nodes", pods[0].Spec.NodeName)
	}
	tryProtocols(t, space.In(space.Ready(client)[0]), "server", canaries.Secret, spiffe(space, "client"))
}

// spiffe is the identity of a ServiceAccount.
func spiffe(space *harness.Space, account string) string {
	return fmt.Sprintf("spiffe://cluster.local/ns/%s/sa/%s", space.Name, account)
}

func (s *suite) redis(t *testing.T) {
	image := s.redisImage(t)
	space := s.Space(t, "redis", harness.Meshed)
	redis := harness.App{
		Name: "redis", Image: image,
		Args: []string{"--save", "", "--protected-mode", "no", "--dir", "/"},
		Change: func(spec *corev1.PodSpec) {
			spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
				TCPSocket: &corev1.TCPSocketAction{Port: harness.Port(6379)},
			}}
		},
		Ports: []corev1.ServicePort{{Name: "redis", Port: 6379}, {Name: "undeclared", Port: 6380, TargetPort: harness.Port(6379)}},
	}
	client := harness.Client("client")
	space.Deploy(redis, client)
	space.Ready(redis)
	from := space.In(space.Ready(client)[0])
	answer := fmt.Sprintf(`$%d\r\n%s\r\n`, len(canaries.Secret), canaries.Secret)
	for _, port := range []int{6379, 6380} {
		report := from.Load(load.Options{
			Kind: load.TCP, Target: fmt.Sprintf("redis:%d", port), Connections: 4, Requests: 1000,
			Send: "ECHO " + canaries.Secret + `\r\n`, Expect: answer,
		})
		if report.OK != 1000 {
			t.Errorf("port %d: %d of 1000 are ok: %v", port, report.OK, report.Errors)
		}
	}
}

// redisImage makes an image of this machine's redis-server. On a cluster that is not ours it must be
// there already, named by E2E_REDIS_IMAGE.
func (s *suite) redisImage(t *testing.T) string {
	t.Helper()
	if image := os.Getenv("E2E_REDIS_IMAGE"); image != "" {
		return image
	}
	if s.Settings.ClusterName == "" || s.Settings.ClusterBin == "" {
		t.Skip("no byrnie-cluster to load an image of redis into, and E2E_REDIS_IMAGE is not set")
	}
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal(err)
	}
	image, archive := s.Settings.Image("redis"), filepath.Join(t.TempDir(), "redis.tar")
	for _, args := range [][]string{
		{"image", "build", "--ref", image, "--out", archive, "--user", "65532", "--entrypoint", "/redis-server", "--with-libs", program, program + ":/redis-server"},
		{"load", "--name", s.Settings.ClusterName, archive},
	} {
		if output, err := exec.CommandContext(t.Context(), s.Settings.ClusterBin, args...).CombinedOutput(); err != nil {
			t.Fatalf("byrnie-cluster %v: %v\n%s", args, err, output)
		}
	}
	return image
}
