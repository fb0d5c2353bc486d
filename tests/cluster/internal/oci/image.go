// Package oci builds container images from files, and pushes them: one layer, nothing else in it, and the same bytes
// from the same input. It knows nothing of clusters.
package oci

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
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

// WriteFile writes the image as an archive that `ctr images import`, `docker load`, podman, kind and minikube read.
func (image Image) WriteFile(path string) error {
	built, tag, err := image.build()
	if err != nil {
		return fmt.Errorf("building the image %s: %w", image.Reference, err)
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	if err := tarball.Write(tag, built, temporary); err != nil {
		temporary.Close()
		return fmt.Errorf("writing the image %s: %w", image.Reference, err)
	}
	if err := temporary.Chmod(0o644); err != nil {
		return err
	}
	if err := temporary.Close(); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}

func (image Image) build() (v1.Image, name.Tag, error) {
	tag, err := name.NewTag(image.Reference)
	if err != nil {
		return nil, tag, err
	}
	layer, err := buildLayer(image.Files)
	if err != nil {
		return nil, tag, err
	}
	built, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer, types.DockerUncompressedLayer))
	if err != nil {
		return nil, tag, err
	}
	config, err := built.ConfigFile()
	if err != nil {
		return nil, tag, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{
		User:       image.User,
		Entrypoint: image.Entrypoint,
		Env:        []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	built, err = mutate.ConfigFile(built, config)
	return built, tag, err
}

// Push sends an archive's image to a registry, as docker would: with the credentials of its configuration.
func Push(ctx context.Context, archive, reference string, options ...remote.Option) error {
	tag, err := name.NewTag(reference)
	if err != nil {
		return err
	}
	image, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		return fmt.Errorf("reading %s: %w", archive, err)
	}
	if err := remote.Write(tag, image, append(options, remote.WithContext(ctx))...); err != nil {
		return fmt.Errorf("pushing %s: %w", tag, err)
	}
	return nil
}
