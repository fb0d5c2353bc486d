package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"byrnie.dev/cluster/internal/layout"

	"sigs.k8s.io/yaml"
)

func TestCredentials(t *testing.T) {
	c := layout.Cluster{Name: "test", Nodes: 2, Slot: 9, Dir: t.TempDir()}
	if err := writeCredentials(c); err != nil {
		t.Fatal(err)
	}
	apiServer := readCertificate(t, c, "apiserver")
	for _, host := range []string{"kubernetes", "kubernetes.default.svc.cluster.local", "localhost", "10.96.0.1", "10.77.9.1", "127.0.0.1"} {
		if err := apiServer.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	// NodeRestriction lets a kubelet change only the node that its name says
	node := readCertificate(t, c, "node2")
	if node.Subject.CommonName != "system:node:node2" || !slices.Equal(node.Subject.Organization, []string{"system:nodes"}) {
		t.Errorf("node 2 is %s", node.Subject)
	}
	if err := node.VerifyHostname("10.77.9.2"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Credential("node3.crt")); err == nil {
		t.Error("a node that is not there has a certificate")
	}
}

func TestKubeconfigIsComplete(t *testing.T) {
	c := layout.Cluster{Name: "test", Nodes: 1, Slot: 9, Dir: t.TempDir()}
	if err := writeCredentials(c); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server    string
				Authority []byte `json:"certificate-authority-data"`
			}
		}
		Users []struct {
			User struct {
				Certificate []byte `json:"client-certificate-data"`
				Key         []byte `json:"client-key-data"`
			}
		}
	}
	if err := yaml.Unmarshal(content, &config); err != nil {
		t.Fatal(err)
	}
	if got := config.Clusters[0].Cluster.Server; got != "https://10.77.9.1:6443" {
		t.Errorf("server %s", got)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(config.Clusters[0].Cluster.Authority) {
		t.Error("no authority")
	}
	if _, err := tls.X509KeyPair(config.Users[0].User.Certificate, config.Users[0].User.Key); err != nil {
		t.Error(err)
	}
	if strings.Contains(string(content), c.Dir) {
		t.Error("it depends on other files")
	}
}

func TestOnlyRootReadsKeys(t *testing.T) {
	c := layout.Cluster{Name: "test", Nodes: 1, Slot: 9, Dir: t.TempDir()}
	if err := writeCredentials(c); err != nil {
		t.Fatal(err)
	}
	keys, err := filepath.Glob(c.Credential("*.key"))
	if err != nil || len(keys) < 5 {
		t.Fatalf("found %d keys, %v", len(keys), err)
	}
	for _, key := range keys {
		if info, err := os.Stat(key); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", key, info.Mode(), err)
		}
	}
}

func readCertificate(t *testing.T, c layout.Cluster, name string) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.Credential(name+".crt"), c.Credential(name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}
