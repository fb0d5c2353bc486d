package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"byrnie.dev/e2e/harness"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	meshAudience = "byrnie.dev/cluster.local"
	wishedName   = "spiffe://cluster.local/ns/kube-system/sa/admin"
)

// tokens: a certificate is for the pod that a token was made for and that asks itself, and says that pod's name and
// nothing else. Everybody else is told why not.
func (s *suite) tokens(t *testing.T) {
	space, outside := s.Space(t, "tokens", harness.Meshed), s.Space(t, "tokens-outside")
	asker, other, gone, stranger := harness.Client("asker"), harness.Client("other"), harness.Client("gone"), harness.Client("stranger")
	space.Deploy(asker, other, gone)
	outside.Deploy(stranger)
	askers, others, leavers := space.Ready(asker), space.Ready(other), space.Ready(gone)
	strangers := outside.Ready(stranger)
	address := s.identityAddress(t, space)
	inAsker, inStranger := space.In(askers[0]), outside.In(strangers[0])

	good := s.token(t, &askers[0], meshAudience)
	bound := s.token(t, &leavers[0], meshAudience)
	s.deleted(t, &leavers[0])
	signed := strings.LastIndex(good, ".")
	forged := good[:signed+1] + strings.Map(func(r rune) rune {
		if r == 'A' {
			return 'B'
		}
		return 'A'
	}, good[signed+1:])

	for _, row := range []struct {
		name, token string
		from        harness.Place
		code, says  string
	}{
		{"its own", good, inAsker, "OK", ""},
		{"its own, again", good, inAsker, "OK", ""},
		{"for the API server", s.token(t, &askers[0], ""), inAsker, "Unauthenticated", "not valid for audience"},
		{"for another audience", s.token(t, &askers[0], "byrnie.dev/another.example"), inAsker, "Unauthenticated", "not valid for audience"},
		{"bound to no pod", s.requestToken(t, space.Name, "asker", meshAudience, nil), inAsker, "Unauthenticated", "not bound to a pod"},
		{"another pod's", s.token(t, &others[0], meshAudience), inAsker, "PermissionDenied", "none of the pod's addresses"},
		{"its own, from another pod", good, inStranger, "PermissionDenied", "none of the pod's addresses"},
		{"of a pod without proxy", s.token(t, &strangers[0], meshAudience), inStranger, "PermissionDenied", "no container byrnie-proxy"},
		{"of a pod that was deleted", bound, inAsker, "Unauthenticated", "not valid for audience"},
		{"with another signature", forged, inAsker, "Unauthenticated", "not valid for audience"},
		{"none", "", inAsker, "InvalidArgument", "token is missing"},
	} {
		answer := s.issue(t, row.from, address, row.token)
		if answer.Code != row.code || !strings.Contains(answer.Message, row.says) {
			t.Errorf("%s: want %s %q, have %+v", row.name, row.code, row.says, answer)
		}
		if want := []string{spiffe(space, "asker")}; row.code == "OK" && fmt.Sprint(answer.Names) != fmt.Sprint(want) {
			t.Errorf("%s: the certificate names %v, want %v", row.name, answer.Names, want)
		}
	}
	for _, pod := range s.SystemPods(t, "byrnie-operator") {
		lines, err := s.Kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range []string{good, bound, forged} {
			if strings.Contains(string(lines), token[signed-40:]) {
				t.Errorf("%s logs a token", pod.Name)
			}
		}
	}
}

// issued is what the command `issue` prints.
type issued struct {
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Names   []string `json:"names"`
}

func (s *suite) issue(t *testing.T, from harness.Place, address, token string) (answer issued) {
	t.Helper()
	stdout, stderr, _, err := from.Exec(t.Context(), strings.NewReader(token), "issue", address, wishedName)
	if err == nil {
		err = json.Unmarshal([]byte(stdout), &answer)
	}
	if err != nil {
		t.Fatalf("%v %s", err, stderr)
	}
	return answer
}

func (s *suite) identityAddress(t *testing.T, space *harness.Space) string {
	t.Helper()
	trust, err := s.Kube.CoreV1().ConfigMaps(space.Name).Get(t.Context(), harness.TrustConfigMap, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return trust.Data["identity-address"]
}

// token is one of a pod's own, as its kubelet would get it.
func (s *suite) token(t *testing.T, pod *corev1.Pod, audience string) string {
	t.Helper()
	bound := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	return s.requestToken(t, pod.Namespace, pod.Spec.ServiceAccountName, audience, bound)
}

func (s *suite) requestToken(t *testing.T, namespace, account, audience string, bound *authenticationv1.BoundObjectReference) string {
	t.Helper()
	seconds := int64(600)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds, BoundObjectRef: bound}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	made, err := s.Kube.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made.Status.Token
}

func (s *suite) deleted(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	pods, now := s.Kube.CoreV1().Pods(pod.Namespace), int64(0)
	if err := pods.Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	if err := harness.Eventually(t.Context(), time.Minute, func(ctx context.Context) error {
		if _, err := pods.Get(ctx, pod.Name, metav1.GetOptions{}); err == nil {
			return fmt.Errorf("%s is still there", pod.Name)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
