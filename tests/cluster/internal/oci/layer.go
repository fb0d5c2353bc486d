package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path"
	"slices"
)

// buildLayer packs the files, sorted by destination, and the directories that they need, with neither times nor owners.
func buildLayer(files []File) ([]byte, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Destination, b.Destination) })
	var out bytes.Buffer
	layer := layer{Writer: tar.NewWriter(&out), directories: map[string]bool{"/": true}}
	if err := layer.directory("/tmp", 0o1777); err != nil {
		return nil, err
	}
	for i, file := range files {
		if !path.IsAbs(file.Destination) {
			return nil, fmt.Errorf("%s: the place in the image must begin with a slash", file.Destination)
		}
		if i > 0 && file.Destination == files[i-1].Destination {
			if file.Source != files[i-1].Source {
				return nil, fmt.Errorf("%s is wanted from both %s and %s", file.Destination, files[i-1].Source, file.Source)
			}
			continue
		}
		if err := layer.file(file); err != nil {
			return nil, err
		}
	}
	if err := layer.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

type layer struct {
	*tar.Writer
	directories map[string]bool
}

func (l layer) directory(name string, mode int64) error {
	if l.directories[name] {
		return nil
	}
	l.directories[name] = true
	if err := l.directory(path.Dir(name), 0o755); err != nil {
		return err
	}
	return l.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name[1:] + "/", Mode: mode, Format: tar.FormatUSTAR})
}

func (l layer) file(file File) error {
	info, err := os.Stat(file.Source)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", file.Source)
	}
	content, err := os.ReadFile(file.Source)
	if err != nil {
		return err
	}
	destination := path.Clean(file.Destination)
	if err := l.directory(path.Dir(destination), 0o755); err != nil {
		return err
	}
	mode := int64(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	if err := l.WriteHeader(&tar.Header{Name: destination[1:], Mode: mode, Size: int64(len(content)), Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	_, err = l.Write(content)
	return err
}
