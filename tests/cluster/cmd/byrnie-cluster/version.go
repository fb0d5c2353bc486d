package main

import (
	"runtime/debug"
	"strings"
	_ "unsafe" // for linkname

	"k8s.io/component-base/version"
)

// Kubernetes takes its version from linker flags, which a plain `go build` does not set; charts that ask for a version
// would refuse v0.0.0. These are the variables that the flags set.

//go:linkname gitVersion k8s.io/component-base/version.gitVersion
var gitVersion string

//go:linkname gitMajor k8s.io/component-base/version.gitMajor
var gitMajor string

//go:linkname gitMinor k8s.io/component-base/version.gitMinor
var gitMinor string

// setVersion makes the version of Kubernetes that of the module in this binary.
func setVersion() error {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	for _, module := range build.Deps {
		if module.Path == "k8s.io/kubernetes" {
			gitVersion = module.Version
			parts := strings.SplitN(strings.TrimPrefix(module.Version, "v"), ".", 3)
			gitMajor, gitMinor = parts[0], parts[1]
		}
	}
	return version.SetDynamicVersion(gitVersion)
}
