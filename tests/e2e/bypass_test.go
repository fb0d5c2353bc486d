package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// securityPage has the table of what goes through the mesh and what does not.
const securityPage = "../../docs/security.md"

// bypass tries every way from a pod to another and compares what comes of it with the published table.
func (s *suite) bypass(t *testing.T) {
	space, outside := s.Space(t, "bypass", harness.Meshed), s.Space(t, "bypass-outside")
	server := harness.App{Name: "server", Change: alsoUDP}
	user := harness.App{Name: "user", Change: alsoUDP}
	root := harness.App{Name: "root", Change: func(spec *corev1.PodSpec) {
		alsoUDP(spec)
		uid := int64(0)
		spec.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: &uid}
	}}
	stranger := harness.Client("stranger")
	space.Deploy(server, user, root)
	outside.Deploy(stranger)
	target := space.Ready(server)[0]
	nodePort := s.nodePort(t, space)
	inUser, inRoot := space.Ready(user)[0], space.Ready(root)[0]
	onNode := s.watch.Place(target.Spec.NodeName)

	froms := []struct {
		name   string
		place  harness.Place
		prefix []string
		own    string // its own address; none: nothing listens there
	}{
		{"the application", space.In(inUser), nil, inUser.Status.PodIP},
		{"the application, as root", space.In(inRoot), nil, inRoot.Status.PodIP},
		{"the application, as the proxy's user", space.In(inRoot), []string{"as", "14100"}, inRoot.Status.PodIP},
		{"a pod outside the mesh", outside.In(outside.Ready(stranger)[0]), nil, ""},
		{"a node, or a pod in its network", onNode, nil, ""},
	}
	var rows []string
	for _, from := range froms {
		type way struct{ to, tcp, udp string }
		ways := []way{
			{"another pod's address", target.Status.PodIP + ":8080", target.Status.PodIP + ":7777"},
			{"a Service's address", s.clusterIP(t, space) + ":8080", s.clusterIP(t, space) + ":7777"},
			{"a node port", fmt.Sprintf("%s:%d", target.Status.HostIP, nodePort[corev1.ProtocolTCP]), fmt.Sprintf("%s:%d", target.Status.HostIP, nodePort[corev1.ProtocolUDP])},
		}
		if from.own != "" {
			ways = append(ways, way{"localhost", "127.0.0.1:8080", "127.0.0.1:7777"}, way{"its own pod's address", from.own + ":8080", from.own + ":7777"})
		}
		ways = append(ways,
			way{"port 14140 of another pod, its proxy's for calls out", target.Status.PodIP + ":14140", ""},
			way{"port 14143 of another pod, its proxy's for calls in", target.Status.PodIP + ":14143", ""},
			way{"port 14191 of another pod, its proxy's metrics", target.Status.PodIP + ":14191/metrics", ""})
		for _, way := range ways {
			tcp, udp := verdictTCP(t, from.place, from.prefix, way.tcp), "none"
			if way.udp != "" {
				udp = verdictUDP(t, from.place, from.prefix, way.udp)
			}
			rows = append(rows, fmt.Sprintf("| %s | %s | %s | %s |", from.name, way.to, tcp, udp))
		}
	}
	measured := strings.Join(rows, "\n")
	page, err := os.ReadFile(securityPage)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("measured:\n%s", measured)
	if !strings.Contains(string(page), measured+"\n\n") {
		t.Errorf("this is not the table of %s", securityPage)
	}
}

// alsoUDP adds an echo over datagrams to the pod.
func alsoUDP(spec *corev1.PodSpec) {
	echo := spec.Containers[0].DeepCopy()
	echo.Name, echo.Args, echo.ReadinessProbe = "udp", []string{"udp", "listen", ":7777"}, nil
	spec.Containers = append(spec.Containers, *echo)
}

// nodePort opens the server on a port of every node, and its UDP echo, too.
func (s *suite) nodePort(t *testing.T, space *harness.Space) map[corev1.Protocol]int32 {
	service, err := s.Kube.CoreV1().Services(space.Name).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "public"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "server"}, Ports: []corev1.ServicePort{
			{Name: "http", Port: 8080, TargetPort: intstr.FromInt32(8080)},
			{Name: "udp", Port: 7777, TargetPort: intstr.FromInt32(7777), Protocol: corev1.ProtocolUDP},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ports := map[corev1.Protocol]int32{}
	for _, port := range service.Spec.Ports {
		ports[port.Protocol] = port.NodePort
	}
	return ports
}

func (s *suite) clusterIP(t *testing.T, space *harness.Space) string {
	service, err := s.Kube.CoreV1().Services(space.Name).Get(t.Context(), "public", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return service.Spec.ClusterIP
}

// verdictTCP says what became of a request: the server, or a proxy's admin port, saw it as a member's, or
// as anybody's, or not at all. What is refused is tried again: it must stay so.
func verdictTCP(t *testing.T, from harness.Place, prefix []string, to string) string {
	t.Helper()
	stdout, code := run(t, from, append(prefix, "call", "--timeout", "2s", "http://"+to))
	switch {
	case code == 0 && strings.Contains(strings.ToLower(stdout), "echo-client-id: spiffe://"):
		return "mutual TLS"
	case code == 0:
		return "in clear"
	default:
		return "refused"
	}
}

func verdictUDP(t *testing.T, from harness.Place, prefix []string, to string) string {
	t.Helper()
	if _, code := run(t, from, append(prefix, "udp", "ask", to)); code == 0 {
		return "in clear"
	}
	return "refused"
}

func run(t *testing.T, from harness.Place, args []string) (stdout string, code int) {
	t.Helper()
	stdout, _, code, err := from.Exec(t.Context(), nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	return stdout, code
}
