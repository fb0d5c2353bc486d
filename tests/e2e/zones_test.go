package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"byrnie.dev/apps/load"
	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// zones asks a server that has one pod in the client's zone and one in another, and then one that weighs more.
func (s *suite) zones(t *testing.T) {
	s.zoned(t)
	space := s.Space(t, "zones", harness.Meshed)
	server := harness.App{Name: "server", Replicas: 2, Change: func(spec *corev1.PodSpec) {
		spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "server"}},
		}}
	}}
	client := harness.Client("client")
	space.Deploy(server, client)
	pods := space.Ready(server)
	caller := space.Ready(client)[0]
	near := pods[0]
	if near.Spec.NodeName != caller.Spec.NodeName {
		near = pods[1]
	}
	from := space.In(caller)
	share := func() float64 {
		report := from.Load(load.Options{
			Kind: load.HTTP, Target: "http://server:8080/?bytes=64", Connections: 4, Requests: 1000, GroupBy: []string{"pod"}, Headers: []string{secretHeader},
		})
		if report.OK != 1000 {
			t.Fatalf("%d of 1000 are ok: %+v %v", report.OK, report.Statuses, report.Errors)
		}
		return float64(report.Groups["pod"][near.Name]) / 10
	}
	// News of a Service and of a pod have no condition that says where they are in force.
	settles := func(what string, least, most float64) {
		t.Helper()
		space.Eventually(20*time.Second, what, func(context.Context) error {
			if got := share(); got < least || got > most {
				return fmt.Errorf("the near pod has %.1f %%, want %.0f to %.0f", got, least, most)
			}
			return nil
		})
	}
	settles("nothing is said", 20, 80)
	space.Apply("apiVersion: v1\nkind: Service\nmetadata: {name: server}\nspec: {trafficDistribution: PreferClose}\n")
	settles("the Service prefers its callers' zone", 98, 100)
	space.Apply("apiVersion: byrnie.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: everywhere}\nspec: {traffic: {loadBalancing: {algorithm: RoundRobin, zone: Ignore}}}\n")
	space.Programmed(harness.MeshPolicies, "everywhere")
	settles("a policy does not", 45, 55)
	patch := []byte(`{"metadata":{"annotations":{"byrnie.dev/weight":"9"}}}`)
	if _, err := s.Kube.CoreV1().Pods(space.Name).Patch(t.Context(), near.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	settles("it weighs nine times as much", 85, 95)
}

// zoned gives two nodes a zone each, until the test is over, where nodes have none. Zones that are there stay as they are.
func (s *suite) zoned(t *testing.T) {
	t.Helper()
	nodes, err := s.Kube.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	zones := map[string]bool{}
	for _, node := range nodes.Items {
		zones[node.Labels[corev1.LabelTopologyZone]] = true
	}
	if len(zones) > 1 {
		return
	}
	if len(nodes.Items) < 2 || !zones[""] {
		t.Skip("all nodes are in one zone")
	}
	label := func(node, zone string) {
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%s}}}`, corev1.LabelTopologyZone, zone)
		if _, err := s.Kube.CoreV1().Nodes().Patch(context.Background(), node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	}
	for i, node := range nodes.Items {
		label(node.Name, fmt.Sprintf(`"zone-%d"`, i))
		t.Cleanup(func() { label(node.Name, "null") })
	}
}
