package oci

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestClosureAgreesWithTheLoader compares with what the loader itself says, by way of ldd.
func TestClosureAgreesWithTheLoader(t *testing.T) {
	for _, program := range []string{"/usr/sbin/nft", "/bin/bash", "/bin/ls"} {
		t.Run(program, func(t *testing.T) {
			listed, err := exec.Command("ldd", program).Output()
			if err != nil {
				t.Skipf("ldd %s: %v", program, err)
			}
			files, err := WithLibraries(program)
			if err != nil {
				t.Fatal(err)
			}
			got := names(files)
			want := map[string]bool{program: true}
			for line := range strings.Lines(string(listed)) {
				name, target, resolved := strings.Cut(strings.TrimSpace(line), " => ")
				if resolved {
					name = target
				}
				if path, _, _ := strings.Cut(name, " "); strings.HasPrefix(path, "/") {
					want[path] = true
				}
			}
			if len(want) < 3 {
				t.Fatalf("ldd says nothing useful: %s", listed)
			}
			for path := range want {
				if !slices.Contains(got, path) {
					t.Errorf("%s is missing in %v", path, got)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d files, but the loader uses %d: %v", len(got), len(want), got)
			}
		})
	}
}

func TestStaticProgramNeedsNothing(t *testing.T) {
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	object, err := readObject(executable)
	if err != nil {
		t.Fatal(err)
	}
	if object.interpreter != "" {
		t.Skip("this test is linked dynamically: set CGO_ENABLED=0")
	}
	if files, err := WithLibraries(executable); err != nil || len(files) != 1 {
		t.Errorf("got %v, %v", files, err)
	}
}

func TestMissingLibraryIsNamed(t *testing.T) {
	if _, err := os.Stat("/bin/bash"); err != nil {
		t.Skip("no /bin/bash")
	}
	_, err := closure("/bin/bash", []string{t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "libc.so.6") && !strings.Contains(err.Error(), "libtinfo") {
		t.Errorf("got %v", err)
	}
}

func TestSearchPathFollowsIncludes(t *testing.T) {
	dir := t.TempDir()
	main := writeFile(t, filepath.Join(dir, "ld.so.conf"), "# first\ninclude "+dir+"/conf.d/*.conf\n/opt/lib # last\n", 0o644)
	if err := os.Mkdir(filepath.Join(dir, "conf.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "conf.d", "a.conf"), "/a\n\n/b\n", 0o644)
	got, err := searchPath(main)
	if err != nil || !slices.Equal(got[:3], []string{"/a", "/b", "/opt/lib"}) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := searchPath(filepath.Join(dir, "missing")); err != nil || len(got) == 0 {
		t.Errorf("without a configuration: %v, %v", got, err)
	}
}

func names(files []File) []string {
	var all []string
	for _, file := range files {
		all = append(all, file.Destination)
	}
	return all
}
