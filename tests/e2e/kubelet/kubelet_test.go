// Package kubelet is what the mesh does with a Kubernetes that makes certificates for pods itself (1.37 and later).
// The chart is installed before.
package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	signer     = "byrnie.dev/mesh"
	bundleName = "byrnie.dev:mesh:roots"
	offerLabel = "byrnie.dev/pod-certificates"
)

var (
	requests = schema.GroupVersionResource{Group: "certificates.k8s.io", Version: "v1", Resource: "podcertificaterequests"}
	bundles  = schema.GroupVersionResource{Group: "certificates.k8s.io", Version: "v1", Resource: "clustertrustbundles"}
)

type suite struct{ *harness.Cluster }

// TestPodCertificates: pods get their first certificate from their kubelet, talk, live through a rotation, and use
// their tokens where certificates live for too short a time.
func TestPodCertificates(t *testing.T) {
	cluster, err := harness.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{cluster}
	if err := harness.Eventually(t.Context(), time.Minute, s.Installed); err != nil {
		t.Fatal(err)
	}
	s.offers(t, true)
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"the kubelet's certificate is the first", s.first},
		{"whoever has no proxy is denied", s.denied},
		{"a rotation asks the operator", s.rotation},
		{"short lives use the token", s.shortLives},
	} {
		t.Run(test.name, test.run)
	}
}

func (s *suite) first(t *testing.T) {
	space := s.Space(t, "kubelet", harness.Meshed)
	server, client := harness.App{Name: "server"}, harness.Client("client")
	space.Deploy(server, client)
	for _, pod := range space.Ready(server, client) {
		if !asksKubelet(&pod) {
			t.Errorf("pod %s does not ask its kubelet", pod.Name)
		}
		if kind, message := s.answered(t, space, pod.Name); kind != "Issued" {
			t.Errorf("the request of %s was %s: %s", pod.Name, kind, message)
		}
		if sources := s.sources(t, space, pod.Name); len(sources) != 1 || sources[0] != "kubelet" {
			t.Errorf("the certificates of %s came from %v", pod.Name, sources)
		}
	}
	answer := s.call(t, space, client)
	if want := "spiffe://cluster.local/ns/" + space.Name + "/sa/client"; !strings.Contains(answer.Body, want) {
		t.Errorf("the server was called by %s, want %s", answer.Body, want)
	}
}

// denied: the signer is everybody's to name, and its certificates are the mesh's alone.
func (s *suite) denied(t *testing.T) {
	space := s.Space(t, "without-proxy")
	space.Deploy(harness.App{Name: "thief", Change: func(spec *corev1.PodSpec) {
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: "identity", VolumeSource: corev1.VolumeSource{
			Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
				PodCertificate: &corev1.PodCertificateProjection{SignerName: signer, KeyType: "ECDSAP256", CredentialBundlePath: "credential.pem"},
			}}},
		}})
		spec.Containers[0].VolumeMounts = append(spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "identity", MountPath: "/identity"})
	}})
	space.Eventually(time.Minute, "the request is denied", func(ctx context.Context) error {
		list, err := s.Dynamic.Resource(requests).Namespace(space.Name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, request := range list.Items {
			if kind, message := condition(&request); kind == "Denied" && strings.Contains(message, "no container byrnie-proxy") {
				return nil
			} else if kind != "" {
				t.Fatalf("it was %s: %s", kind, message)
			}
		}
		return fmt.Errorf("%d requests, none answered", len(list.Items))
	})
}

func (s *suite) rotation(t *testing.T) {
	space := s.Space(t, "rotated", harness.Meshed)
	server, client := harness.App{Name: "server"}, harness.Client("client")
	space.Deploy(server, client)
	pods := space.Ready(server, client)
	before, roots := s.signer(t), s.roots(t)
	if err := s.ChangeMeshTrust(t.Context(), fmt.Sprintf(`{"rotation": {"request": "kubelet-%d"}}`, time.Now().UnixNano())); err != nil {
		t.Fatal(err)
	}
	space.Eventually(6*time.Minute, "another root signs alone", func(ctx context.Context) error {
		trust, err := s.Dynamic.Resource(harness.MeshTrusts).Get(ctx, harness.MeshTrust, metav1.GetOptions{})
		if err != nil {
			return err
		}
		phase, _, _ := unstructured.NestedString(trust.Object, "status", "phase")
		if now, _, _ := unstructured.NestedString(trust.Object, "status", "signer"); phase != "Stable" || now == before {
			return fmt.Errorf("phase %s", phase)
		}
		return nil
	})
	for _, pod := range pods {
		if sources := s.sources(t, space, pod.Name); len(sources) < 2 || sources[0] != "kubelet" || sources[1] != "operator" {
			t.Errorf("the certificates of %s came from %v", pod.Name, sources)
		}
	}
	space.Eventually(time.Minute, "the bundle has the new root alone", func(context.Context) error {
		if now := s.roots(t); strings.Count(now, "BEGIN") != 1 || now == roots {
			return fmt.Errorf("it has %d roots", strings.Count(now, "BEGIN"))
		}
		return nil
	})
	s.call(t, space, client)
	later := harness.Client("later")
	space.Deploy(later)
	pod := space.Ready(later)[0]
	if sources := s.sources(t, space, pod.Name); len(sources) != 1 || sources[0] != "kubelet" {
		t.Errorf("the certificates of %s came from %v", pod.Name, sources)
	}
	s.call(t, space, later)
}

func (s *suite) shortLives(t *testing.T) {
	change := func(ctx context.Context, lifetime string) {
		if err := s.ChangeMeshTrust(ctx, fmt.Sprintf(`{"leafLifetime": %q}`, lifetime)); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { change(context.WithoutCancel(t.Context()), "24h") })
	change(t.Context(), "30m")
	s.offers(t, false)
	space := s.Space(t, "short", harness.Meshed)
	server, client := harness.App{Name: "server"}, harness.Client("client")
	space.Deploy(server, client)
	for _, pod := range space.Ready(server, client) {
		if asksKubelet(&pod) {
			t.Errorf("pod %s asks its kubelet", pod.Name)
		}
		if sources := s.sources(t, space, pod.Name); len(sources) != 1 || sources[0] != "operator" {
			t.Errorf("the certificates of %s came from %v", pod.Name, sources)
		}
	}
	s.call(t, space, client)
}

// offers waits until the bundle says whether kubelets may ask, and the injector does as it says.
func (s *suite) offers(t *testing.T, want bool) {
	t.Helper()
	space := s.Space(t, "offer", harness.Meshed)
	space.Eventually(2*time.Minute, fmt.Sprintf("pods that ask their kubelet: %t", want), func(ctx context.Context) error {
		bundle, err := s.Dynamic.Resource(bundles).Get(ctx, bundleName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if have := bundle.GetLabels()[offerLabel]; have != fmt.Sprint(want) {
			return fmt.Errorf("the bundle says %q", have)
		}
		dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
		// There are several injectors.
		for range 10 {
			pod, err := s.Kube.CoreV1().Pods(space.Name).Create(ctx, space.Pod(harness.Client("dry")), dry)
			if err != nil {
				return err
			}
			if asksKubelet(pod) != want {
				return fmt.Errorf("a new pod asks its kubelet: %t", !want)
			}
		}
		return nil
	})
}

func asksKubelet(pod *corev1.Pod) bool {
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.PodCertificate != nil && source.PodCertificate.SignerName == signer {
				return true
			}
		}
	}
	return false
}

// answered is the condition of a pod's request.
func (s *suite) answered(t *testing.T, space *harness.Space, pod string) (kind, message string) {
	t.Helper()
	list, err := s.Dynamic.Resource(requests).Namespace(space.Name).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range list.Items {
		if name, _, _ := unstructured.NestedString(request.Object, "spec", "podName"); name == pod {
			return condition(&request)
		}
	}
	return "never made", ""
}

func condition(request *unstructured.Unstructured) (kind, message string) {
	conditions, _, _ := unstructured.NestedSlice(request.Object, "status", "conditions")
	if len(conditions) == 0 {
		return "", ""
	}
	answer := conditions[0].(map[string]any) // Kubernetes allows one
	kind, _, _ = unstructured.NestedString(answer, "type")
	message, _, _ = unstructured.NestedString(answer, "message")
	return kind, message
}

// sources are where a proxy's certificates came from, in order, as its log says.
func (s *suite) sources(t *testing.T, space *harness.Space, pod string) (sources []string) {
	t.Helper()
	for line := range strings.Lines(space.Logs(t.Context(), pod, harness.ProxyContainer, 1000)) {
		var said struct{ Message, Source string }
		if json.Unmarshal([]byte(line), &said) == nil && said.Message == "certificate installed" {
			sources = append(sources, said.Source)
		}
	}
	return sources
}

func (s *suite) call(t *testing.T, space *harness.Space, client harness.App) (answer harness.Answer) {
	t.Helper()
	from := space.In(space.Ready(client)[0])
	space.Eventually(20*time.Second, client.Name+" calls", func(ctx context.Context) (err error) {
		answer, err = from.Call(ctx, "http://server:8080/")
		if err == nil && answer.Status != 200 {
			err = fmt.Errorf("%s", answer)
		}
		return err
	})
	return answer
}

func (s *suite) signer(t *testing.T) string {
	t.Helper()
	trust, err := s.Dynamic.Resource(harness.MeshTrusts).Get(t.Context(), harness.MeshTrust, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	signer, _, _ := unstructured.NestedString(trust.Object, "status", "signer")
	return signer
}

func (s *suite) roots(t *testing.T) string {
	t.Helper()
	bundle, err := s.Dynamic.Resource(bundles).Get(t.Context(), bundleName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	roots, _, _ := unstructured.NestedString(bundle.Object, "spec", "trustBundle")
	return roots
}
