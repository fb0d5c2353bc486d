// Package node is what runs inside a node as its process 1: it takes the node's mounts, starts containerd, the kubelet,
// kube-proxy and, on node 1, the control plane, and keeps them running. It knows nothing of other clusters or of the host.
package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"byrnie.dev/cluster/internal/layout"
)

// startLimit is how long anything may take to answer after its start, also on a busy machine.
const startLimit = 2 * time.Minute

// Run is node index of the cluster in the directory dir. It returns when the node is told to stop, or cannot go on.
func Run(dir string, index int) error {
	// the network is ready, and the cluster described, when the other end of the standard input is closed
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	c, err := layout.Load(dir)
	if err != nil {
		return err
	}
	syscall.Umask(0o022)
	if err := mountOwn(c, index); err != nil {
		return err
	}
	if err := setNetwork(); err != nil {
		return err
	}
	n := &node{cluster: c, index: index, processes: newProcesses(c, index)}
	go n.processes.reap()

	failed := make(chan error, 2)
	if index == 1 {
		go func() { failed <- n.startControlPlane() }()
	} else {
		failed <- nil
	}
	go func() { failed <- n.startWorker() }()
	for range 2 {
		if err := <-failed; err != nil {
			return err
		}
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	return nil
}

type node struct {
	cluster   layout.Cluster
	index     int
	processes *processes
}

func (n *node) startControlPlane() error {
	go n.processes.keep(etcd())
	if err := await("etcd", func() error { return get(http.DefaultClient, EtcdURL+"/readyz") }); err != nil {
		return err
	}
	go n.processes.keep(apiServer(n.cluster))
	if err := n.awaitAPIServer(); err != nil {
		return err
	}
	go n.processes.keep(controllerManager(n.cluster))
	go n.processes.keep(scheduler(n.cluster))
	return nil
}

func (n *node) startWorker() error {
	paths := map[string]string{}
	for _, name := range []string{"containerd.toml", "cni.conflist", "kubelet.yaml", "kube-proxy.yaml"} {
		path, err := writeConfig(n.cluster, n.index, name)
		if err != nil {
			return err
		}
		paths[name] = path
	}
	go n.processes.keep(containerd(paths["containerd.toml"]))
	if err := await("containerd", dialContainerd); err != nil {
		return err
	}
	if err := n.processes.run(importImage(n.cluster.PauseArchive())); err != nil {
		return err
	}
	// a kubelet that starts before the API server backs off for seconds
	if err := n.awaitAPIServer(); err != nil {
		return err
	}
	go n.processes.keep(kubelet(n.cluster, n.index, paths["kubelet.yaml"]))
	go n.processes.keep(kubeProxy(paths["kube-proxy.yaml"]))
	return nil
}

func (n *node) awaitAPIServer() error {
	authority, err := os.ReadFile(n.cluster.Credential("ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	return await("kube-apiserver", func() error { return get(client, n.cluster.APIServer()+"/readyz") })
}

// setNetwork sets what can only be set from inside. Pods are reached by routing alone, so bridged frames are nobody's business.
func setNetwork() error {
	for name, value := range map[string]string{"ipv4/ip_forward": "1", "bridge/bridge-nf-call-iptables": "0"} {
		err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func dialContainerd() error {
	connection, err := net.Dial("unix", containerdSocket)
	if err != nil {
		return err
	}
	return connection.Close()
}

func get(client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

func await(what string, ready func() error) error {
	var err error
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = ready(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s is not ready after %s: %w", what, startLimit, err)
}
