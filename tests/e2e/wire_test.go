package e2e

import (
	"testing"

	"byrnie.dev/e2e/harness"
)

// onTheWire asks the captures what crossed the nodes in clear while all tests before this ran. What two
// pods outside the mesh send now is the control: it must be seen.
func (s *suite) onTheWire(t *testing.T) {
	space := s.Space(t, "control")
	server, client := harness.App{Name: "server"}, harness.Client("client")
	space.Deploy(server, client)
	space.Ready(server)
	answers(t, space.In(space.Ready(client)[0]), "http://server:8080/", 200, "", "--header", openHeader)
	counts := s.watch.Counts(t)
	t.Logf("capture on %s: %d packets, %d lost by the kernel; in clear: %d of what was sent in clear, %d of what was sent between meshed pods",
		counts.Interface, counts.Packets, counts.Dropped, counts.Found["open"], counts.Found["secret"])
	if counts.Found["open"] == 0 {
		t.Error("what was sent in clear was not seen: the capture proves nothing")
	}
	if counts.Found["secret"] != 0 {
		t.Errorf("plaintext between meshed pods: %v", counts.Examples["secret"])
	}
}
