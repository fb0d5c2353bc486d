package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"byrnie.dev/apps/load"
	"byrnie.dev/e2e/harness"
)

// mutualTLS: a stranger outside the mesh is refused where mTLS is strict and served, without an identity,
// where it is permissive; members are served either way.
func (s *suite) mutualTLS(t *testing.T) {
	outside := s.Space(t, "outside")
	outside.Deploy(harness.Client("stranger"), harness.App{Name: "public"})
	strict := s.Space(t, "strict", harness.Meshed)
	strict.Deploy(harness.App{Name: "server"}, harness.App{Name: "legacy"}, harness.Client("member"))
	permissive := s.Space(t, "permissive", harness.Meshed, harness.Annotated(harness.MTLSAnnotation, "Permissive"))
	permissive.Deploy(harness.App{Name: "server"})
	stranger := outside.In(outside.Ready(harness.Client("stranger"), harness.App{Name: "public"})[0])
	member := strict.In(strict.Ready(harness.Client("member"), harness.App{Name: "server"}, harness.App{Name: "legacy"})[0])
	permissive.Ready(harness.App{Name: "server"})
	at := func(space *harness.Space, service string, port int) string {
		return fmt.Sprintf("%s.%s:%d", service, space.Name, port)
	}

	t.Run("strict refuses plaintext", func(t *testing.T) {
		url := "http://" + at(strict, "server", 8080) + "/"
		unanswered(t, stranger, url)
		unanswered(t, stranger, url, "--h2c")
		for _, options := range []load.Options{
			{Kind: load.TCP, Target: at(strict, "server", 7070)},
			{Kind: load.TCP, Target: at(strict, "server", 7071), Banner: "220 "},
			{Kind: load.GRPC, Target: at(strict, "server", 9090)},
			{Kind: load.TLS, Target: "https://" + at(strict, "server", 8443) + "/"},
		} {
			options.Requests, options.Timeout = 5, load.Duration(5*time.Second)
			if report := stranger.For(t).Load(options); report.OK != 0 || report.Count(load.ErrorStatus) != 5 {
				t.Errorf("%s %s: %d of 5 were answered: %+v", options.Kind, options.Target, report.OK, report.Statuses)
			}
		}
		answers(t, member, url, 200, "", "--header", secretHeader)
	})
	t.Run("permissive admits plaintext without identity", func(t *testing.T) {
		answer := answers(t, stranger, "http://"+at(permissive, "server", 8080)+"/", 200, "",
			"--header", openHeader, "--header", "byrnie-client-id="+spiffe(strict, "member"))
		if strings.Contains(answer.Body, "spiffe://") {
			t.Errorf("a stranger's own claim reached the server: %s", answer.Body)
		}
		for _, options := range []load.Options{
			{Kind: load.TCP, Target: at(permissive, "server", 7071), Banner: "220 "},
			{Kind: load.GRPC, Target: at(permissive, "server", 9090)},
			{Kind: load.TLS, Target: "https://" + at(permissive, "server", 8443) + "/"},
		} {
			options.Requests = 20
			if report := stranger.For(t).Load(options); report.OK != 20 {
				t.Errorf("%s %s: %d of 20 are ok: %v", options.Kind, options.Target, report.OK, report.Errors)
			}
		}
		answer = answers(t, member, "http://"+at(permissive, "server", 8080)+"/", 200, "", "--header", secretHeader)
		if !strings.Contains(answer.Body, spiffe(strict, "member")) {
			t.Errorf("a member has no identity at a permissive server: %s", answer.Body)
		}
	})
	t.Run("a policy opens one port, and closes it again", func(t *testing.T) {
		strict := strict.For(t)
		strict.Apply(`
apiVersion: byrnie.dev/v1alpha1
kind: MeshPolicy
metadata: {name: legacy}
spec:
  targetRefs: [{group: "", kind: Service, name: legacy}]
  mtls: {mode: Strict, ports: [{port: 8080, mode: Permissive}]}
`)
		strict.Programmed(harness.MeshPolicies, "legacy")
		answers(t, stranger, "http://"+at(strict, "legacy", 8080)+"/", 200, "", "--header", openHeader)
		unanswered(t, stranger, "http://"+at(strict, "legacy", 9090)+"/")
		unanswered(t, stranger, "http://"+at(strict, "server", 8080)+"/")
		strict.Remove(harness.MeshPolicies, "legacy")
		unanswered(t, stranger, "http://"+at(strict, "legacy", 8080)+"/")
	})
	t.Run("members reach what is outside the mesh", func(t *testing.T) {
		answers(t, member, "http://"+at(outside, "public", 8080)+"/", 200, "")
	})
}
