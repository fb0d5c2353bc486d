package oci

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// WithLibraries returns the program and every file without which it would not start in an empty image: the loader and
// all shared libraries, each at the path at which the loader looks for it.
func WithLibraries(program string) ([]File, error) {
	search, err := searchPath("/etc/ld.so.conf")
	if err != nil {
		return nil, err
	}
	return closure(program, search)
}

// closure follows the DT_NEEDED entries from the program on. search are the directories for names without a slash.
func closure(program string, search []string) ([]File, error) {
	needed := []string{program}
	seen := map[string]bool{program: true}
	loader := ""
	var files []File
	for len(needed) > 0 {
		file := needed[0]
		needed = needed[1:]
		files = append(files, File{Source: file, Destination: file})
		object, err := readObject(file)
		if err != nil {
			return nil, fmt.Errorf("reading what %s needs: %w", file, err)
		}
		if loader == "" && object.interpreter != "" {
			loader = object.interpreter
			object.libraries = append(object.libraries, loader)
		}
		found, err := object.locate(search, loader)
		if err != nil {
			return nil, fmt.Errorf("looking for what %s needs: %w", file, err)
		}
		for _, dependency := range found {
			if !seen[dependency] {
				seen[dependency] = true
				needed = append(needed, dependency)
			}
		}
	}
	return files, nil
}

// object is what a program or library says about its own needs.
type object struct {
	class       elf.Class
	machine     elf.Machine
	interpreter string
	libraries   []string
	runPath     []string
}

func readObject(path string) (*object, error) {
	file, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	o := &object{class: file.Class, machine: file.Machine}
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP {
			name, err := io.ReadAll(segment.Open())
			if err != nil {
				return nil, err
			}
			o.interpreter = strings.TrimRight(string(name), "\x00")
		}
	}
	if o.libraries, err = file.ImportedLibraries(); err != nil {
		return nil, err
	}
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		values, err := file.DynString(tag)
		if err != nil {
			return nil, err
		}
		for _, value := range values {
			origin := strings.NewReplacer("$ORIGIN", filepath.Dir(path), "${ORIGIN}", filepath.Dir(path))
			o.runPath = append(o.runPath, filepath.SplitList(origin.Replace(value))...)
		}
	}
	return o, nil
}

// locate finds the libraries. The loader is one of them by name, but is not looked for: it is in memory by then.
func (o *object) locate(search []string, loader string) ([]string, error) {
	var found []string
	for _, library := range o.libraries {
		if library == filepath.Base(loader) {
			continue
		}
		path, err := o.locateLibrary(library, search)
		if err != nil {
			return nil, err
		}
		found = append(found, path)
	}
	return found, nil
}

func (o *object) locateLibrary(name string, search []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, directory := range append(o.runPath, search...) {
		path := filepath.Join(directory, name)
		candidate, err := elf.Open(path)
		if err != nil {
			continue
		}
		fits := candidate.Class == o.class && candidate.Machine == o.machine
		candidate.Close()
		if fits {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is in none of %s", name, strings.Join(search, " "))
}

// searchPath lists the directories of the loader's configuration, and those that it searches anyway.
func searchPath(config string) ([]string, error) {
	directories, err := configured(config)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return append(directories, "/lib64", "/usr/lib64", "/lib", "/usr/lib"), err
}

func configured(config string) ([]string, error) {
	content, err := os.ReadFile(config)
	if err != nil {
		return nil, err
	}
	var directories []string
	for line := range strings.Lines(string(content)) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		pattern, include := strings.CutPrefix(line, "include ")
		if !include {
			directories = append(directories, line)
			continue
		}
		files, err := filepath.Glob(strings.TrimSpace(pattern))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			more, err := configured(file)
			if err != nil {
				return nil, err
			}
			directories = append(directories, more...)
		}
	}
	return directories, nil
}
