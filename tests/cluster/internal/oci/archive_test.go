package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func writeFile(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func build(t *testing.T, image Image) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := image.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func entries(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	for reader := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := reader.Next()
		if err == io.EOF {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		if found[header.Name], err = io.ReadAll(reader); err != nil {
			t.Fatal(err)
		}
	}
}

func decode[T any](t *testing.T, content []byte) T {
	t.Helper()
	var value T
	if err := json.Unmarshal(content, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestSameInputSameBytes(t *testing.T) {
	dir := t.TempDir()
	program := writeFile(t, filepath.Join(dir, "program"), "#!/program", 0o755)
	data := writeFile(t, filepath.Join(dir, "data"), "data", 0o600)
	image := Image{Reference: "example/app:1", Entrypoint: []string{"/bin/program"}, Files: []File{
		{Source: program, Destination: "/bin/program"}, {Source: data, Destination: "/etc/app/data"},
	}}
	first := build(t, image)
	slices.Reverse(image.Files)
	old := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(program, old, old); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, build(t, image)) {
		t.Error("the order of the arguments or the age of the files changed the image")
	}
	writeFile(t, data, "other data", 0o600)
	if bytes.Equal(first, build(t, image)) {
		t.Error("another content made the same image")
	}
}

func TestArchiveIsAnImageLayout(t *testing.T) {
	program := writeFile(t, filepath.Join(t.TempDir(), "program"), "#!/program", 0o755)
	files := entries(t, build(t, Image{
		Reference: "example/app:1", User: "14100", Entrypoint: []string{"/program", "run"}, Files: []File{{program, "/program"}},
	}))
	for name, content := range files {
		if sum, isBlob := filepath.Base(name), filepath.Dir(name) == "blobs/sha256"; isBlob && digest.FromBytes(content).Encoded() != sum {
			t.Errorf("%s has another digest", name)
		}
	}
	blob := func(d v1.Descriptor) []byte {
		content, ok := files["blobs/sha256/"+d.Digest.Encoded()]
		if !ok || int64(len(content)) != d.Size {
			t.Fatalf("the archive has no blob %s of %d bytes", d.Digest, d.Size)
		}
		return content
	}
	index := decode[v1.Index](t, files["index.json"])
	if got, want := index.Manifests[0].Annotations[nameAnnotation], "docker.io/example/app:1"; got != want {
		t.Errorf("containerd will call it %q, not %q", got, want)
	}
	manifest := decode[v1.Manifest](t, blob(index.Manifests[0]))
	config := decode[v1.Image](t, blob(manifest.Config))
	if config.Config.User != "14100" || !slices.Equal(config.Config.Entrypoint, []string{"/program", "run"}) {
		t.Errorf("unexpected configuration %+v", config.Config)
	}
	if config.RootFS.DiffIDs[0] != manifest.Layers[0].Digest {
		t.Error("the layer is not the one of the configuration")
	}
	layer := entries(t, blob(manifest.Layers[0]))
	if string(layer["program"]) != "#!/program" {
		t.Errorf("the layer has no program: %v", layer)
	}
	if _, ok := layer["tmp/"]; !ok {
		t.Error("the layer has no /tmp")
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	one, two := writeFile(t, filepath.Join(dir, "one"), "1", 0o644), writeFile(t, filepath.Join(dir, "two"), "2", 0o644)
	for what, image := range map[string]Image{
		"two files at one place":  {Reference: "a:1", Files: []File{{one, "/x"}, {two, "/x"}}},
		"a relative place":        {Reference: "a:1", Files: []File{{one, "x"}}},
		"a missing file":          {Reference: "a:1", Files: []File{{filepath.Join(dir, "three"), "/x"}}},
		"a directory":             {Reference: "a:1", Files: []File{{dir, "/x"}}},
		"a name with upper cases": {Reference: "A:1", Files: []File{{one, "/x"}}},
	} {
		if err := image.Write(io.Discard); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}
