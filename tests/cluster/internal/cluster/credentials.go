package cluster

import (
	"fmt"
	"net/netip"
	"os"

	"byrnie.dev/cluster/internal/layout"
	"byrnie.dev/cluster/internal/pki"

	"sigs.k8s.io/yaml"
)

// writeCredentials makes every key, certificate and kubeconfig that the cluster's parts expect to find.
func writeCredentials(c layout.Cluster) error {
	if err := os.MkdirAll(c.Credential(""), 0o700); err != nil {
		return err
	}
	authority, err := pki.NewAuthority("kubernetes")
	if err != nil {
		return err
	}
	private, public, err := pki.SigningKeys()
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"ca.crt": authority.Certificate, "ca.key": authority.Key,
		"service-accounts.key": private, "service-accounts.pub": public,
	}
	for file, subject := range subjects(c) {
		pair, err := authority.Issue(subject)
		if err != nil {
			return err
		}
		files[file+".crt"], files[file+".key"] = pair.Certificate, pair.Key
		if files[file+".kubeconfig"], err = kubeconfig(c, authority.Certificate, pair); err != nil {
			return err
		}
	}
	for file, content := range files {
		if err := os.WriteFile(c.Credential(file), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// subjects names everyone who takes part, by the name of the file that holds the certificate.
func subjects(c layout.Cluster) map[string]pki.Subject {
	loopback, service := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr(layout.APIServiceIP)
	all := map[string]pki.Subject{
		"admin": {Name: "byrnie-cluster-admin", Groups: []string{"system:masters"}},
		"apiserver": {
			Name:      "kube-apiserver",
			Hosts:     []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + layout.Domain, "localhost"},
			Addresses: []netip.Addr{service, c.NodeAddress(1), loopback},
		},
		"apiserver-kubelet-client": {Name: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}},
		"controller-manager":       {Name: "system:kube-controller-manager"},
		"scheduler":                {Name: "system:kube-scheduler"},
		"proxy":                    {Name: "system:kube-proxy"},
	}
	for i := 1; i <= c.Nodes; i++ {
		all[c.NodeName(i)] = pki.Subject{
			Name:      "system:node:" + c.NodeName(i),
			Groups:    []string{"system:nodes"},
			Hosts:     []string{c.NodeName(i)},
			Addresses: []netip.Addr{c.NodeAddress(i), loopback},
		}
	}
	return all
}

func kubeconfig(c layout.Cluster, authority []byte, pair pki.Pair) ([]byte, error) {
	context := "byrnie-cluster-" + c.Name
	named := func(kind string, value any) []any { return []any{map[string]any{"name": context, kind: value}} }
	config, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": context,
		"clusters": named("cluster", map[string]any{"server": c.APIServer(), "certificate-authority-data": authority}),
		"users":    named("user", map[string]any{"client-certificate-data": pair.Certificate, "client-key-data": pair.Key}),
		"contexts": named("context", map[string]any{"cluster": context, "user": context}),
	})
	if err != nil {
		return nil, fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return config, nil
}
