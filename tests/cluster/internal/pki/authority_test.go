package pki

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"testing"
)

func parse(t *testing.T, pair Pair) *x509.Certificate {
	t.Helper()
	if _, err := tls.X509KeyPair(pair.Certificate, pair.Key); err != nil {
		t.Fatalf("key and certificate do not fit: %v", err)
	}
	block, _ := pem.Decode(pair.Certificate)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func TestServingCertificate(t *testing.T) {
	authority, err := NewAuthority("kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(Subject{
		Name: "kube-apiserver", Hosts: []string{"kubernetes.default.svc"}, Addresses: []netip.Addr{netip.MustParseAddr("10.77.3.1")},
	})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.Certificate)
	certificate := parse(t, pair)
	for _, name := range []string{"kubernetes.default.svc", "10.77.3.1"} {
		if _, err := certificate.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: roots, DNSName: "10.77.4.1"}); err == nil {
		t.Error("another address was accepted")
	}
	other, err := NewAuthority("kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	strangers := x509.NewCertPool()
	strangers.AppendCertsFromPEM(other.Certificate)
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: strangers}); err == nil {
		t.Error("an authority of the same name was taken for ours")
	}
}

func TestClientCertificateServesNothing(t *testing.T) {
	authority, err := NewAuthority("kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(Subject{Name: "admin", Groups: []string{"system:masters"}})
	if err != nil {
		t.Fatal(err)
	}
	certificate := parse(t, pair)
	if got := certificate.Subject.Organization; len(got) != 1 || got[0] != "system:masters" {
		t.Errorf("groups %v", got)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.Certificate)
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("a client's certificate can serve")
	}
	if certificate.IsCA {
		t.Error("a client's certificate can sign")
	}
}

func TestSigningKeysBelongTogether(t *testing.T) {
	private, public, err := SigningKeys()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(private)
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode(public)
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if other, ok := parsed.(*rsa.PublicKey); !ok || !key.PublicKey.Equal(other) {
		t.Error("the public key is another pair's")
	}
}
