// Package oci builds container images from files: one layer, nothing else in it, and the same bytes from the same
// input. It knows nothing of clusters.
package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is what to build.
type Image struct {
	// Reference is the image's name; without a registry and a tag it gets docker.io and latest, as everywhere.
	Reference  string
	Entrypoint []string
	// User is a number, or empty for root.
	User  string
	Files []File
}

// File is a file of the host and its place in the image.
type File struct{ Source, Destination string }

// nameAnnotation is where containerd looks for an image's full name.
const nameAnnotation = "io.containerd.image.name"

// WriteFile writes the image as an archive that `ctr images import`, podman and Docker can read.
func (image Image) WriteFile(path string) (err error) {
	temporary, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	if err := image.Write(temporary); err != nil {
		temporary.Close()
		return fmt.Errorf("building the image %s: %w", image.Reference, err)
	}
	if err := temporary.Close(); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}

// Write writes the archive.
func (image Image) Write(out io.Writer) error {
	name, err := reference.ParseDockerRef(image.Reference)
	if err != nil {
		return err
	}
	layer, err := buildLayer(image.Files)
	if err != nil {
		return err
	}
	archive := archive{tar.NewWriter(out)}
	layerDescriptor, err := archive.blob(v1.MediaTypeImageLayer, layer)
	if err != nil {
		return err
	}
	config, err := archive.jsonBlob(v1.MediaTypeImageConfig, v1.Image{
		Platform: v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config: v1.ImageConfig{
			User:       image.User,
			Entrypoint: image.Entrypoint,
			Env:        []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDescriptor.Digest}},
	})
	if err != nil {
		return err
	}
	manifest, err := archive.jsonBlob(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    config,
		Layers:    []v1.Descriptor{layerDescriptor},
	})
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{nameAnnotation: name.String(), v1.AnnotationRefName: name.String()}
	return archive.close(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{manifest},
	})
}

// archive is an OCI image layout in a tar file.
type archive struct{ *tar.Writer }

func (a archive) blob(mediaType string, content []byte) (v1.Descriptor, error) {
	sum := digest.FromBytes(content)
	descriptor := v1.Descriptor{MediaType: mediaType, Digest: sum, Size: int64(len(content))}
	return descriptor, writeEntry(a.Writer, "blobs/sha256/"+sum.Encoded(), 0o644, content)
}

func (a archive) jsonBlob(mediaType string, value any) (v1.Descriptor, error) {
	content, err := json.Marshal(value)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return a.blob(mediaType, content)
}

func (a archive) close(index v1.Index) error {
	if err := a.jsonFile(v1.ImageIndexFile, index); err != nil {
		return err
	}
	if err := a.jsonFile(v1.ImageLayoutFile, v1.ImageLayout{Version: v1.ImageLayoutVersion}); err != nil {
		return err
	}
	return a.Close()
}

func (a archive) jsonFile(name string, value any) error {
	content, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return writeEntry(a.Writer, name, 0o644, content)
}

func writeEntry(out *tar.Writer, name string, mode int64, content []byte) error {
	if err := out.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	_, err := io.Copy(out, bytes.NewReader(content))
	return err
}
