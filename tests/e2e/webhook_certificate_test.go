package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	webhookSecret = "byrnie-injector-tls"
	stagedAt      = "byrnie.dev/staged-at"
	spread        = 2 * time.Minute // between staging and serving, in the injector
	keptWait      = 15 * time.Second
)

// webhookCertificate: the injectors change their certificate twice, once to one that is soon to expire and
// by themselves from that to a new one, while pods are created. None is refused, all are injected. The two
// minutes that a new CA has to spread are cut to fifteen seconds by writing that it was staged earlier.
func (s *suite) webhookCertificate(t *testing.T) {
	space := s.Space(t, "webhook", harness.Meshed)
	pod := space.Pod(harness.App{Name: "created"})
	stop, created := make(chan struct{}), make(chan int)
	go func() {
		count := 0
		defer func() { created <- count }()
		for ; ; count++ {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			answer, err := s.Kube.CoreV1().Pods(space.Name).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if err != nil || !harness.Injected(answer) {
				t.Errorf("pod %d: %v", count, err)
			}
		}
	}()
	first := s.webhook(t)
	ca, certificate, key := certificateUntil(t, time.Now().Add(29*24*time.Hour))
	s.changeWebhook(t, func(secret *corev1.Secret) {
		secret.Data["ca.crt"] = append(ca, secret.Data["ca.crt"]...)
		secret.Data["next.crt"], secret.Data["next.key"] = certificate, key
		stageEarlier(secret)
	})
	space.Eventually(90*time.Second, "the staged certificate is served", s.serves(func(served []byte) bool { return bytes.Equal(served, certificate) }))
	space.Eventually(90*time.Second, "the one after it is staged", func(context.Context) error {
		if secret := s.webhook(t); len(secret.Data["next.crt"]) == 0 {
			return fmt.Errorf("the Secret has no next.crt")
		}
		return nil
	})
	s.changeWebhook(t, stageEarlier)
	space.Eventually(90*time.Second, "a third certificate is served", s.serves(func(served []byte) bool {
		return !bytes.Equal(served, certificate) && !bytes.Equal(served, first.Data["tls.crt"])
	}))
	time.Sleep(5 * time.Second) // every injector has it, and none the one before
	close(stop)
	count := <-created
	if count < 300 {
		t.Errorf("only %d pods were created meanwhile", count)
	}
	harness.Bar(t, fmt.Sprintf("pods refused or not injected, of %d, while the webhook's certificate changed twice", count), 0, 0, "")
}

func stageEarlier(secret *corev1.Secret) {
	metav1.SetMetaDataAnnotation(&secret.ObjectMeta, stagedAt, time.Now().Add(keptWait-spread).UTC().Format(time.RFC3339))
}

func (s *suite) webhook(t *testing.T) *corev1.Secret {
	t.Helper()
	secret, err := s.Kube.CoreV1().Secrets(harness.SystemNamespace).Get(t.Context(), webhookSecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func (s *suite) changeWebhook(t *testing.T, change func(*corev1.Secret)) {
	t.Helper()
	secret := s.webhook(t)
	change(secret)
	if _, err := s.Kube.CoreV1().Secrets(harness.SystemNamespace).Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// serves asks the Secret, from which every injector serves.
func (s *suite) serves(wanted func(certificate []byte) bool) func(context.Context) error {
	return func(ctx context.Context) error {
		secret, err := s.Kube.CoreV1().Secrets(harness.SystemNamespace).Get(ctx, webhookSecret, metav1.GetOptions{})
		if err == nil && !wanted(secret.Data["tls.crt"]) {
			err = fmt.Errorf("not yet")
		}
		return err
	}
}

// certificateUntil makes a CA and a certificate of it for the injector's Service, as the injector does.
func certificateUntil(t *testing.T, end time.Time) (ca, certificate, key []byte) {
	t.Helper()
	template := func(serial int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "e2e"},
			NotBefore: time.Now().Add(-time.Minute), NotAfter: end, BasicConstraintsValid: true,
		}
	}
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	sign := func(template, issuer *x509.Certificate, public, private *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, issuer, &public.PublicKey, private)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	caKey, leafKey := newKey(), newKey()
	root, leaf := template(1), template(2)
	root.IsCA, root.KeyUsage = true, x509.KeyUsageCertSign
	leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leaf.DNSNames = []string{"byrnie-injector." + harness.SystemNamespace + ".svc"}
	private, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return sign(root, root, caKey, caKey), sign(leaf, root, leafKey, caKey), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}
