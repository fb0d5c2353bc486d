package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Labels and annotations that the mesh reads and writes.
const (
	InjectLabel        = "byrnie.dev/inject"
	InjectedLabel      = "byrnie.dev/injected"
	MTLSAnnotation     = "byrnie.dev/mtls"
	AllowOptOut        = "byrnie.dev/allow-opt-out"
	TrustConfigMap     = "byrnie-trust"
	ProxyContainer     = "byrnie-proxy"
	InitContainer      = "byrnie-init"
	ReasonHeader       = "Byrnie-Reason"
	MeshGroup          = "byrnie.dev"
	SplitGroup         = "split.smi-spec.io"
	PartOfLabel        = "app.kubernetes.io/part-of"
	PodSecurityEnforce = "pod-security.kubernetes.io/enforce"
)

// Space is a namespace that a test has for itself.
type Space struct {
	*Cluster
	T    *testing.T
	Name string
}

// For is the same namespace for a subtest: what fails in it fails the subtest.
func (s *Space) For(t *testing.T) *Space {
	other := *s
	other.T = t
	return &other
}

// SpaceOption changes a namespace before it is made.
type SpaceOption func(*corev1.Namespace)

// Meshed puts the namespace into the mesh.
func Meshed(namespace *corev1.Namespace) { namespace.Labels[InjectLabel] = "enabled" }

// Labelled adds a label.
func Labelled(key, value string) SpaceOption {
	return func(namespace *corev1.Namespace) { namespace.Labels[key] = value }
}

// Annotated adds an annotation.
func Annotated(key, value string) SpaceOption {
	return func(namespace *corev1.Namespace) { namespace.Annotations[key] = value }
}

// Space makes a namespace that goes away at the end of the test. When the test has failed, it first says
// what there is to know about the pods in it; E2E_KEEP=1 leaves it.
func (c *Cluster) Space(t *testing.T, name string, options ...SpaceOption) *Space {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name:        fmt.Sprintf("e2e-%s-%04x", name, rand.IntN(1<<16)),
		Labels:      map[string]string{"byrnie.dev/e2e": "true"},
		Annotations: map[string]string{},
	}}
	for _, option := range options {
		option(namespace)
	}
	ctx := t.Context()
	if _, err := c.Kube.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		t.Fatalf("create namespace %s: %v", namespace.Name, err)
	}
	space := &Space{Cluster: c, T: t, Name: namespace.Name}
	t.Cleanup(space.remove)
	space.Eventually(20*time.Second, "the default ServiceAccount", func(ctx context.Context) error {
		_, err := c.Kube.CoreV1().ServiceAccounts(space.Name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return space
}

func (s *Space) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if s.T.Failed() {
		s.T.Log(s.Diagnose(ctx))
	}
	if os.Getenv("E2E_KEEP") != "" {
		s.T.Logf("namespace %s is kept", s.Name)
		return
	}
	// Pods end at once: their grace would only hold back what comes next on a small machine.
	now := int64(0)
	s.Kube.CoreV1().Pods(s.Name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
	if err := s.Kube.CoreV1().Namespaces().Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		s.T.Errorf("delete namespace %s: %v", s.Name, err)
	}
}

// Eventually waits until check succeeds, and fails the test with its last error when it does not.
func (s *Space) Eventually(limit time.Duration, what string, check func(context.Context) error) {
	s.T.Helper()
	if err := Eventually(s.T.Context(), limit, check); err != nil {
		s.T.Fatalf("%s: not within %s: %v", what, limit, err)
	}
}

// Eventually calls check until it succeeds; its last error otherwise.
func Eventually(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if last == nil || !errors.Is(err, context.DeadlineExceeded) {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(pause):
		}
	}
}
