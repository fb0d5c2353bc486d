package harness

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Nodes are the names of the cluster's schedulable nodes.
func (c *Cluster) Nodes(t *testing.T) []string {
	t.Helper()
	nodes, err := c.Kube.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, node := range nodes.Items {
		if !node.Spec.Unschedulable {
			names = append(names, node.Name)
		}
	}
	return names
}

// Installed says what keeps the mesh from being there and ready; nil where it is.
func (c *Cluster) Installed(ctx context.Context) error {
	for _, name := range []string{"byrnie-operator", "byrnie-injector"} {
		deployment, err := c.Kube.AppsV1().Deployments(SystemNamespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("the mesh is not installed: %w", err)
		}
		if ready := deployment.Status.ReadyReplicas; ready < *deployment.Spec.Replicas || deployment.Status.ObservedGeneration != deployment.Generation ||
			deployment.Status.UpdatedReplicas < *deployment.Spec.Replicas {
			return fmt.Errorf("%s has %d ready pods of %d", name, ready, *deployment.Spec.Replicas)
		}
	}
	return nil
}

// MeshTrust is the name of the one object of that kind.
const MeshTrust = "default"

// ChangeMeshTrust merges this JSON into the spec of MeshTrust.
func (c *Cluster) ChangeMeshTrust(ctx context.Context, spec string) error {
	patch := fmt.Sprintf(`{"spec": %s}`, spec)
	_, err := c.Dynamic.Resource(MeshTrusts).Patch(ctx, MeshTrust, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

// SystemPods are the live pods of one part of the control plane.
func (c *Cluster) SystemPods(t *testing.T, name string) []corev1.Pod {
	t.Helper()
	pods, err := c.Kube.CoreV1().Pods(SystemNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool { return pod.DeletionTimestamp != nil || !IsReady(&pod) })
}

// Helm runs it against the cluster.
func (c *Cluster) Helm(ctx context.Context, args ...string) error {
	if c.Settings.ClusterBin == "" {
		return fmt.Errorf("BYRNIE_CLUSTER_BIN is not set: it is helm, too")
	}
	command := exec.CommandContext(ctx, c.Settings.ClusterBin, append([]string{"helm"}, args...)...)
	command.Env = append(os.Environ(), "KUBECONFIG="+c.Settings.Kubeconfig)
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		return fmt.Errorf("helm %s: %w\n%s", strings.Join(args, " "), err, output.String())
	}
	return nil
}

// Install installs or upgrades the mesh, with values such as "proxy.log=debug".
func (c *Cluster) Install(ctx context.Context, values ...string) error {
	return c.InstallChart(ctx, c.Settings.Chart, values...)
}

// InstallChart does so with a chart of another release.
func (c *Cluster) InstallChart(ctx context.Context, chart string, values ...string) error {
	args := []string{"upgrade", "--install", "byrnie", chart, "-n", SystemNamespace, "--create-namespace", "--wait", "--timeout", "3m",
		"--set", "image.registry=" + c.Settings.Registry}
	for _, value := range values {
		args = append(args, "--set", value)
	}
	return c.Helm(ctx, args...)
}

// EveryObject shows all objects of all kinds in the cluster.
func (c *Cluster) EveryObject(ctx context.Context, visit func(resource schema.GroupVersionResource, object unstructured.Unstructured)) error {
	_, lists, err := c.Kube.Discovery().ServerGroupsAndResources()
	if err != nil {
		return err
	}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return err
		}
		for _, kind := range list.APIResources {
			if !slices.Contains(kind.Verbs, "list") || version.Group == "metrics.k8s.io" {
				continue
			}
			resource := version.WithResource(kind.Name)
			objects, err := c.Dynamic.Resource(resource).List(ctx, metav1.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) || meta.IsNoMatchError(err) {
				continue
			}
			if err != nil {
				return fmt.Errorf("list %s: %w", kind.Name, err)
			}
			for _, object := range objects.Items {
				visit(resource, object)
			}
		}
	}
	return nil
}

// Leftovers are the objects of the mesh that are in the cluster: everything labelled as part of it, the
// kinds it brought, the ConfigMaps it wrote into meshed namespaces, and all that is in its own.
func (c *Cluster) Leftovers(ctx context.Context) ([]string, error) {
	groups, err := c.Kube.Discovery().ServerGroups()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, group := range groups.Groups {
		if group.Name == MeshGroup || group.Name == SplitGroup {
			found = append(found, "API group "+group.Name)
		}
	}
	err = c.EveryObject(ctx, func(resource schema.GroupVersionResource, object unstructured.Unstructured) {
		ours := object.GetLabels()[PartOfLabel] == "byrnie" || object.GetName() == TrustConfigMap ||
			(object.GetNamespace() == SystemNamespace && object.GetName() != "default" && object.GetName() != "kube-root-ca.crt")
		if ours && object.GetDeletionTimestamp() == nil && resource.Resource != "events" {
			found = append(found, fmt.Sprintf("%s %s/%s", object.GetKind(), object.GetNamespace(), object.GetName()))
		}
	})
	return found, err
}

// WithinMinutes is a context for long commands of a test.
func WithinMinutes(t *testing.T, minutes int) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(minutes)*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
