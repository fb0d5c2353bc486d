package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// enforcement: in a namespace labelled `enforced`, somebody with the role `edit`, and even the right to
// change the namespace, gets no pod past the mesh. What needs no injector is refused by the API server.
func (s *suite) enforcement(t *testing.T) {
	space := s.Space(t, "enforced", harness.Labelled(harness.InjectLabel, "enforced"), harness.Annotated(harness.AllowOptOut, "true"))
	editor := s.editor(t, space)
	member := harness.App{Name: "member"}
	space.Deploy(member)
	running := space.Ready(member)[0]

	uid := int64(14100)
	contained := func(change func(*corev1.SecurityContext)) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{}
			change(pod.Spec.Containers[0].SecurityContext)
		}
	}
	capable := func(names ...corev1.Capability) func(*corev1.SecurityContext) {
		return func(c *corev1.SecurityContext) { c.Capabilities = &corev1.Capabilities{Add: names} }
	}
	privileged := true
	for _, c := range []struct {
		name string
		pod  func(*corev1.Pod)
		says []string
	}{
		{"nothing special", func(*corev1.Pod) {}, nil},
		{"opt-out by label", func(pod *corev1.Pod) { pod.Labels[harness.InjectLabel] = "disabled" }, []string{"disabled"}},
		{"skipped inbound ports", annotated("byrnie.dev/skip-inbound-ports", "8080"), []string{"skip-inbound-ports"}},
		{"skipped outbound ports", annotated("byrnie.dev/skip-outbound-ports", "80"), []string{"skip-outbound-ports"}},
		{"hostNetwork", func(pod *corev1.Pod) { pod.Spec.HostNetwork = true }, []string{"hostNetwork"}},
		{"the proxy's user", contained(func(c *corev1.SecurityContext) { c.RunAsUser = &uid }), []string{"14100"}},
		{"the proxy's user, for the pod", func(pod *corev1.Pod) { pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &uid} }, []string{"14100"}},
		{"privileged", contained(func(c *corev1.SecurityContext) { c.Privileged = &privileged }), []string{"container app", "privileged"}},
		{"NET_ADMIN", contained(capable("NET_ADMIN")), []string{"container app", "capabilities.add"}},
		{"NET_RAW among others", contained(capable("CHOWN", "NET_RAW")), []string{"container app", "capabilities.add"}},
		{"a capability in another spelling", contained(capable("cap_net_admin")), []string{"container app", "capabilities.add"}},
		{"the node's processes", func(pod *corev1.Pod) { pod.Spec.HostPID = true }, []string{"hostPID"}},
		{"the proxy's processes", func(pod *corev1.Pod) { pod.Spec.ShareProcessNamespace = &privileged }, []string{"shareProcessNamespace"}},
		{"all capabilities", contained(capable("ALL")), []string{"container app", "capabilities.add"}},
		{"a harmless capability", contained(capable("CHOWN")), nil},
		{"NET_ADMIN in an init container", func(pod *corev1.Pod) {
			first := *pod.Spec.Containers[0].DeepCopy()
			first.Name, first.ReadinessProbe, first.SecurityContext = "first", nil, &corev1.SecurityContext{}
			capable("NET_ADMIN")(first.SecurityContext)
			pod.Spec.InitContainers = []corev1.Container{first}
		}, []string{"container first", "capabilities.add"}},
		{"the proxy's port", func(pod *corev1.Pod) { pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 14143}} }, []string{"14143"}},
		{"past the injector, as a mirror pod", func(pod *corev1.Pod) {
			pod.Annotations["kubernetes.io/config.mirror"] = "x"
			pod.Spec.ServiceAccountName, pod.Spec.NodeName = "", running.Spec.NodeName
		}, []string{"no proxy of the mesh", "enforced"}},
		{"a proxy of one's own", func(pod *corev1.Pod) {
			always := corev1.ContainerRestartPolicyAlways
			forged := corev1.Container{Name: harness.ProxyContainer, Image: pod.Spec.Containers[0].Image, Args: []string{"sleep"}, RestartPolicy: &always}
			pod.Spec.InitContainers = []corev1.Container{forged}
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := space.For(t).Pod(harness.App{Name: "pod", Annotations: map[string]string{}})
			c.pod(pod)
			made, err := editor.CoreV1().Pods(space.Name).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			refusedFor(t, err, c.says)
			if err == nil && (len(made.Spec.InitContainers) < 2 || !strings.Contains(made.Spec.InitContainers[1].Image, "/proxy:")) {
				t.Errorf("no proxy of ours in %+v", made.Spec.InitContainers)
			}
		})
	}
	for _, c := range []struct {
		name    string
		context func(*corev1.SecurityContext)
		target  string
		says    []string
	}{
		{"debugging", func(*corev1.SecurityContext) {}, "app", nil},
		{"debugging the proxy", func(*corev1.SecurityContext) {}, harness.ProxyContainer, []string{"container debug", "targetContainerName"}},
		{"debugging with NET_ADMIN", capable("NET_ADMIN"), "", []string{"container debug", "capabilities.add"}},
		{"debugging with SYS_PTRACE", capable("SYS_PTRACE"), "", []string{"container debug", "--profile=restricted"}},
		{"debugging as the proxy's user", func(c *corev1.SecurityContext) { c.RunAsUser = &uid }, "", []string{"container debug", "14100"}},
		{"debugging privileged", func(c *corev1.SecurityContext) { c.Privileged = &privileged }, "", []string{"container debug", "privileged"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod, err := editor.CoreV1().Pods(space.Name).Get(t.Context(), running.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			added := corev1.EphemeralContainer{TargetContainerName: c.target, EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				Name: "debug", Image: running.Spec.Containers[0].Image, SecurityContext: &corev1.SecurityContext{}, ImagePullPolicy: corev1.PullIfNotPresent,
			}}
			c.context(added.SecurityContext)
			pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, added)
			_, err = editor.CoreV1().Pods(space.Name).UpdateEphemeralContainers(t.Context(), pod.Name, pod, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
			refusedFor(t, err, c.says)
		})
	}
	t.Run("the proxy's image, later", func(t *testing.T) {
		patch := func(text string) error {
			_, err := editor.CoreV1().Pods(space.Name).Patch(t.Context(), running.Name, types.StrategicMergePatchType, []byte(text), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
			return err
		}
		image := `{"spec":{"initContainers":[{"name":"` + harness.ProxyContainer + `","image":"` + running.Spec.Containers[0].Image + `"}]}}`
		refusedFor(t, patch(image), []string{"no proxy of the mesh"})
		refusedFor(t, patch(`{"spec":{"containers":[{"name":"app","image":"example.org/app:2"}]}}`), nil)
		refusedFor(t, patch(`{"metadata":{"labels":{"some":"label"}}}`), nil)
	})
	t.Run("the namespace's label", func(t *testing.T) {
		relabel := func(client kubernetes.Interface, value string) error {
			_, err := client.CoreV1().Namespaces().Patch(t.Context(), space.Name, types.MergePatchType,
				[]byte(`{"metadata":{"labels":{"byrnie.dev/inject":`+value+`}}}`), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
			return err
		}
		for _, value := range []string{`"enabled"`, `"disabled"`, `null`} {
			err := relabel(editor, value)
			refusedFor(t, err, []string{"enforced", `"exempt"`, "meshtrusts.byrnie.dev", "editor"})
			if !apierrors.IsForbidden(err) {
				t.Errorf("%v is not Forbidden", err)
			}
			refusedFor(t, relabel(s.Kube, value), nil)
		}
		refusedFor(t, relabel(editor, `"enforced"`), nil)
	})
}

// editor is a user with the role `edit` in the namespace, who may change the namespace itself, too.
func (s *suite) editor(t *testing.T, space *harness.Space) kubernetes.Interface {
	t.Helper()
	ctx, rbac := t.Context(), s.Kube.RbacV1()
	bind := func(kind, name string) error {
		_, err := rbac.RoleBindings(space.Name).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "editor"}},
		}, metav1.CreateOptions{})
		return err
	}
	_, err := rbac.Roles(space.Name).Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "relabel"},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"get", "update", "patch"}},
			{APIGroups: []string{""}, Resources: []string{"pods/ephemeralcontainers"}, Verbs: []string{"update", "patch"}},
		},
	}, metav1.CreateOptions{})
	for _, role := range [][2]string{{"ClusterRole", "edit"}, {"Role", "relabel"}} {
		if err == nil {
			err = bind(role[0], role[1])
		}
	}
	config := rest.CopyConfig(s.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "editor"}
	editor, clientErr := kubernetes.NewForConfig(config)
	if err != nil || clientErr != nil {
		t.Fatal(err, clientErr)
	}
	space.Eventually(20*time.Second, "the role is in force", func(ctx context.Context) error {
		_, err := editor.CoreV1().Pods(space.Name).List(ctx, metav1.ListOptions{})
		return err
	})
	return editor
}
