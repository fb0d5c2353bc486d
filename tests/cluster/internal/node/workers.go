package node

import (
	"bytes"
	"embed"
	"errors"
	"os"
	"path/filepath"
	"text/template"

	"byrnie.dev/cluster/internal/layout"
)

const containerdSocket = "/run/containerd/containerd.sock"

//go:embed config
var configs embed.FS

var templates = template.Must(template.ParseFS(configs, "config/*"))

// writeConfig fills in one of the files in config/ and returns the path of the result.
func writeConfig(c layout.Cluster, index int, name string) (string, error) {
	plugins, err := pluginDir()
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = templates.ExecuteTemplate(&out, name, map[string]any{
		"Node":       c.NodeName(index),
		"Pods":       c.PodRange(index),
		"AllPods":    layout.PodRange,
		"DNS":        layout.DNSServiceIP,
		"Domain":     layout.Domain,
		"Cgroup":     c.Cgroup(index),
		"PauseImage": layout.PauseImage,
		"Plugins":    plugins,
		"Socket":     containerdSocket,
		"CNI":        filepath.Join(runDir, "cni"),
		"CA":         c.Credential("ca.crt"),
		"Pair":       c.Credential(c.NodeName(index)),
		"Proxy":      c.Credential("proxy.kubeconfig"),
	})
	if err != nil {
		return "", err
	}
	path := filepath.Join(runDir, name)
	if name == "cni.conflist" {
		path = filepath.Join(runDir, "cni", name)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, out.Bytes(), 0o644)
}

// pluginDir is where Debian, or else everybody else, has the CNI plugins.
func pluginDir() (string, error) {
	for _, dir := range []string{"/usr/lib/cni", "/opt/cni/bin"} {
		if _, err := os.Stat(filepath.Join(dir, "ptp")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("the CNI plugins are not in /usr/lib/cni: install containernetworking-plugins")
}

func containerd(config string) command {
	return command{name: "containerd", program: "containerd", args: []string{"--config", config}}
}

func importImage(archive string) command {
	return command{name: "ctr", program: "ctr", args: []string{"--address", containerdSocket, "--namespace", "k8s.io", "images", "import", archive}}
}

func kubelet(c layout.Cluster, index int, config string) command {
	return command{name: "kubelet", args: []string{
		"--config=" + config,
		"--kubeconfig=" + c.Credential(c.NodeName(index)+".kubeconfig"),
		"--hostname-override=" + c.NodeName(index),
		"--node-ip=" + c.NodeAddress(index).String(),
	}}
}

func kubeProxy(config string) command {
	return command{name: "kube-proxy", args: []string{"--config=" + config}}
}
