package e2e

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"byrnie.dev/e2e/harness"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// admission: whatever is wrong in an object of ours is said before it is stored, with the field's name.
func (s *suite) admission(t *testing.T) {
	space := s.Space(t, "admission")
	for _, kind := range []string{"meshpolicy", "trafficsplit", "meshtrust"} {
		text, err := os.ReadFile("testdata/valid/" + kind + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		t.Run(kind+" as it should be", func(t *testing.T) {
			refusedFor(t, space.WouldCreate(t.Context(), parsed(t, string(text))), nil)
		})
		t.Run(kind+" with every field mutated", func(t *testing.T) { everyField(t, space, string(text)) })
	}
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			object := parsed(t, fault.object)
			refusedFor(t, space.WouldCreate(t.Context(), object), fault.says)
		})
	}
}

func parsed(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	objects, err := harness.Parse(text)
	if err != nil || len(objects) != 1 {
		t.Fatalf("%d objects, %v in %s", len(objects), err, text)
	}
	return objects[0]
}

// everyField gives each field of the spec a value of a wrong type, and each object an unknown field. Free
// maps (labels) have no unknown fields.
func everyField(t *testing.T, space *harness.Space, text string) {
	t.Helper()
	original := parsed(t, text)
	places := placesOf(original.Object["spec"], []any{"spec"})
	if len(places) < 6 {
		t.Fatalf("%d places in %s", len(places), text)
	}
	for _, place := range places {
		last := fmt.Sprint(lastName(place))
		tryPlace(t, space, text, place, "wrong type", last, func(parent map[string]any, key string) { parent[key] = wrongType(parent[key]) },
			func(list []any, index int) { list[index] = wrongType(list[index]) })
		if last == "matchLabels" {
			continue
		}
		surprise := func(value any) {
			if object, ok := value.(map[string]any); ok {
				object["surprise"] = "unknown"
			}
		}
		if _, isObject := at(original.Object, place).(map[string]any); isObject {
			tryPlace(t, space, text, place, "unknown field", "surprise", func(parent map[string]any, key string) { surprise(parent[key]) },
				func(list []any, index int) { surprise(list[index]) })
		}
	}
}

func tryPlace(t *testing.T, space *harness.Space, text string, place []any, what, names string, inObject func(map[string]any, string), inList func([]any, int)) {
	t.Helper()
	object := parsed(t, text)
	switch parent := at(object.Object, place[:len(place)-1]).(type) {
	case map[string]any:
		inObject(parent, place[len(place)-1].(string))
	case []any:
		inList(parent, place[len(place)-1].(int))
	}
	err := space.WouldCreate(t.Context(), object)
	if err == nil {
		t.Errorf("%s at %v: it was taken", what, place)
	} else if !strings.Contains(err.Error(), names) {
		t.Errorf("%s at %v: the message does not name %q: %v", what, place, names, err)
	}
}

// placesOf lists every field and list item below value, as paths of names and indices.
func placesOf(value any, path []any) [][]any {
	places := [][]any{slices.Clone(path)}
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			places = append(places, placesOf(value[key], append(slices.Clone(path), key))...)
		}
	case []any:
		for index, item := range value {
			places = append(places, placesOf(item, append(slices.Clone(path), index))...)
		}
	}
	return places
}

func at(value any, path []any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			value = value.(map[string]any)[step]
		case int:
			value = value.([]any)[step]
		}
	}
	return value
}

func lastName(place []any) any {
	for _, step := range slices.Backward(place) {
		if name, ok := step.(string); ok {
			return name
		}
	}
	return ""
}

func wrongType(value any) any {
	if _, isText := value.(string); isText {
		return map[string]any{"not": "text"}
	}
	return "not of this type"
}
