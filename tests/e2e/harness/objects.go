package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// Kinds of the mesh, as their statuses are read.
var (
	MeshPolicies  = schema.GroupVersionResource{Group: MeshGroup, Version: "v1alpha1", Resource: "meshpolicies"}
	TrafficSplits = schema.GroupVersionResource{Group: SplitGroup, Version: "v1alpha4", Resource: "trafficsplits"}
	MeshTrusts    = schema.GroupVersionResource{Group: MeshGroup, Version: "v1alpha1", Resource: "meshtrusts"}
)

// Parse reads objects from YAML documents.
func Parse(text string) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	for document := range strings.SplitSeq(text, "\n---") {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &object.Object); err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, document)
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
	return objects, nil
}

// Apply applies YAML in the namespace, as `kubectl apply --server-side` does.
func (s *Space) Apply(text string) {
	s.T.Helper()
	s.must("apply", s.TryApply(s.T.Context(), text))
}

// TryApply answers what the API server says against it.
func (s *Space) TryApply(ctx context.Context, text string) error {
	objects, err := Parse(text)
	if err != nil {
		return err
	}
	for _, object := range objects {
		client, err := s.client(object.GroupVersionKind())
		if err != nil {
			return err
		}
		data, err := json.Marshal(object)
		if err != nil {
			return err
		}
		force := true
		if _, err := client.Patch(ctx, object.GetName(), types.ApplyPatchType, data, metav1.PatchOptions{FieldManager: "e2e", Force: &force}); err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	return nil
}

// Create creates one object.
func (s *Space) Create(text string) {
	s.T.Helper()
	objects, err := Parse(text)
	s.must("parse", err)
	client, err := s.client(objects[0].GroupVersionKind())
	s.must("find the kind", err)
	_, err = client.Create(s.T.Context(), objects[0], metav1.CreateOptions{})
	s.must("create", err)
}

// WouldCreate asks the API server what it says against an object, without storing it. Unlike an apply it
// sends fields that the schema does not know.
func (s *Space) WouldCreate(ctx context.Context, object *unstructured.Unstructured) error {
	client, err := s.client(object.GroupVersionKind())
	if err != nil {
		return err
	}
	_, err = client.Create(ctx, object, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

// Remove deletes an object and says so to the test when it cannot.
func (s *Space) Remove(kind schema.GroupVersionResource, name string) {
	s.T.Helper()
	s.must("delete "+kind.Resource+" "+name, s.Dynamic.Resource(kind).Namespace(s.Name).Delete(s.T.Context(), name, metav1.DeleteOptions{}))
}

func (s *Space) client(kind schema.GroupVersionKind) (dynamic.ResourceInterface, error) {
	mapping, err := s.Mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		s.Mapper.Reset()
		if mapping, err = s.Mapper.RESTMapping(kind.GroupKind(), kind.Version); err != nil {
			return nil, err
		}
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return s.Dynamic.Resource(mapping.Resource), nil
	}
	return s.Dynamic.Resource(mapping.Resource).Namespace(s.Name), nil
}

// Condition is one of an object's, as far as it is about the object's present generation.
type Condition struct{ Status, Reason, Message string }

func (c Condition) String() string { return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message) }

// Condition reads one; its Status is "" where there is none of the present generation.
func (s *Space) Condition(ctx context.Context, kind schema.GroupVersionResource, name, condition string) (Condition, error) {
	object, err := s.Dynamic.Resource(kind).Namespace(s.Name).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return Condition{}, err
	}
	all, _, err := unstructured.NestedSlice(object.Object, "status", "conditions")
	if err != nil {
		return Condition{}, err
	}
	for _, entry := range all {
		fields, ok := entry.(map[string]any)
		if !ok || fields["type"] != condition || fields["observedGeneration"] != object.GetGeneration() {
			continue
		}
		text := func(field string) string { value, _ := fields[field].(string); return value }
		return Condition{Status: text("status"), Reason: text("reason"), Message: text("message")}, nil
	}
	return Condition{}, nil
}

// WaitFor waits until a condition has the status, and the reason where one is given.
func (s *Space) WaitFor(kind schema.GroupVersionResource, name, condition, status, reason string) Condition {
	s.T.Helper()
	var seen Condition
	s.Eventually(20*time.Second, fmt.Sprintf("%s %s: %s=%s %s", kind.Resource, name, condition, status, reason), func(ctx context.Context) (err error) {
		seen, err = s.Condition(ctx, kind, name, condition)
		if err == nil && (seen.Status != status || (reason != "" && seen.Reason != reason)) {
			err = fmt.Errorf("it is %q", seen)
		}
		return err
	})
	return seen
}

// Programmed waits until every live proxy has a policy or split in force.
func (s *Space) Programmed(kind schema.GroupVersionResource, name string) {
	s.T.Helper()
	s.WaitFor(kind, name, "Programmed", "True", "")
}
