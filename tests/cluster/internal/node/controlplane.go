package node

import (
	"fmt"
	"path/filepath"

	"byrnie.dev/cluster/internal/layout"
)

const (
	// EtcdURL and EtcdPeerURL are etcd's, in node 1.
	EtcdURL     = "http://127.0.0.1:2379"
	EtcdPeerURL = "http://127.0.0.1:2380"
	etcdData    = "/var/lib/etcd"
)

// EtcdData is etcd's data directory, as the host sees it.
func EtcdData(c layout.Cluster) string { return filepath.Join(c.NodeDir(1), etcdData) }

// etcd keeps nothing safe: a cluster for tests does not outlive its machine.
func etcd() command {
	return command{name: "etcd", args: []string{
		"--name=node1", "--data-dir=" + etcdData, "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + EtcdURL, "--advertise-client-urls=" + EtcdURL,
		"--listen-peer-urls=" + EtcdPeerURL, "--initial-advertise-peer-urls=" + EtcdPeerURL, "--initial-cluster=node1=" + EtcdPeerURL,
	}}
}

func apiServer(c layout.Cluster) command {
	return command{name: "kube-apiserver", args: []string{
		"--etcd-servers=" + EtcdURL,
		"--advertise-address=" + c.NodeAddress(1).String(),
		fmt.Sprintf("--secure-port=%d", layout.APIPort),
		"--tls-cert-file=" + c.Credential("apiserver.crt"),
		"--tls-private-key-file=" + c.Credential("apiserver.key"),
		"--client-ca-file=" + c.Credential("ca.crt"),
		"--kubelet-certificate-authority=" + c.Credential("ca.crt"),
		"--kubelet-client-certificate=" + c.Credential("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + c.Credential("apiserver-kubelet-client.key"),
		// exec and logs: the names of nodes are known to nobody
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc." + layout.Domain,
		"--service-account-key-file=" + c.Credential("service-accounts.pub"),
		"--service-account-signing-key-file=" + c.Credential("service-accounts.key"),
		"--service-cluster-ip-range=" + layout.ServiceRange,
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
	}}
}

func controllerManager(c layout.Cluster) command {
	return command{name: "kube-controller-manager", args: []string{
		"--kubeconfig=" + c.Credential("controller-manager.kubeconfig"),
		"--service-account-private-key-file=" + c.Credential("service-accounts.key"),
		"--root-ca-file=" + c.Credential("ca.crt"),
		"--cluster-signing-cert-file=" + c.Credential("ca.crt"),
		"--cluster-signing-key-file=" + c.Credential("ca.key"),
		"--use-service-account-credentials=true",
		// it makes this directory, which else would be the machine's own; as the kubelet's volumePluginDir
		"--flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins",
		"--leader-elect=false",
		"--kube-api-qps=200", "--kube-api-burst=400",
	}}
}

func scheduler(c layout.Cluster) command {
	return command{name: "kube-scheduler", args: []string{
		"--kubeconfig=" + c.Credential("scheduler.kubeconfig"),
		"--leader-elect=false",
		"--kube-api-qps=200", "--kube-api-burst=400",
	}}
}
