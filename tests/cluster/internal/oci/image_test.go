package oci

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func writeFile(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func archive(t *testing.T, image Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := image.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestSameInputSameBytes(t *testing.T) {
	dir := t.TempDir()
	program := writeFile(t, filepath.Join(dir, "program"), "#!/program", 0o755)
	data := writeFile(t, filepath.Join(dir, "data"), "data", 0o600)
	image := Image{Reference: "example/app:1", Entrypoint: []string{"/bin/program"}, Files: []File{
		{Source: program, Destination: "/bin/program"}, {Source: data, Destination: "/etc/app/data"},
	}}
	first := read(t, archive(t, image))
	slices.Reverse(image.Files)
	old := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(program, old, old); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, read(t, archive(t, image))) {
		t.Error("the order of the arguments or the age of the files changed the image")
	}
	writeFile(t, data, "other data", 0o600)
	if bytes.Equal(first, read(t, archive(t, image))) {
		t.Error("another content made the same image")
	}
}

func TestWhatIsInIt(t *testing.T) {
	program := writeFile(t, filepath.Join(t.TempDir(), "program"), "#!/program", 0o755)
	path := archive(t, Image{
		Reference: "docker.io/example/app:1", User: "14100", Entrypoint: []string{"/program", "run"}, Files: []File{{program, "/program"}},
	})
	if manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(path) }); err != nil ||
		!slices.Equal(manifest[0].RepoTags, []string{"docker.io/example/app:1"}) {
		t.Errorf("it is called %v, %v", manifest, err)
	}
	image, err := tarball.ImageFromPath(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	check(t, image)
}

func check(t *testing.T, image v1.Image) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != "14100" || !slices.Equal(config.Config.Entrypoint, []string{"/program", "run"}) {
		t.Errorf("unexpected configuration %+v", config.Config)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	found := map[string]string{}
	for reader := tar.NewReader(content); ; {
		header, err := reader.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		bytes, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		found[header.Name] = string(bytes)
	}
	if _, hasTmp := found["tmp/"]; !hasTmp || found["program"] != "#!/program" {
		t.Errorf("the layer holds %v", found)
	}
}

func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	program := writeFile(t, filepath.Join(t.TempDir(), "program"), "#!/program", 0o755)
	path := archive(t, Image{
		Reference: "example/app:1", User: "14100", Entrypoint: []string{"/program", "run"}, Files: []File{{program, "/program"}},
	})
	reference := strings.TrimPrefix(server.URL, "http://") + "/mesh/app:2"
	if err := Push(t.Context(), path, reference); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(reference)
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(tag)
	if err != nil {
		t.Fatal(err)
	}
	check(t, image)
	if err := Push(t.Context(), filepath.Join(t.TempDir(), "none.tar"), reference); err == nil {
		t.Error("a missing archive was pushed")
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
		path := filepath.Join(dir, "refused.tar")
		if err := image.WriteFile(path); err == nil {
			t.Errorf("%s was accepted", what)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s left an archive", what)
		}
	}
}
