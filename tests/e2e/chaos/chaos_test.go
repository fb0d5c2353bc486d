// Package chaos breaks the mesh in every way that is known to break meshes, while traffic goes on that must not notice.
// The chart is installed before; CHAOS=full makes it long.
package chaos

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"byrnie.dev/e2e/harness"
)

// scale is how much of everything is done.
type scale struct {
	rotations int
	rotated   int64         // requests during them, at least
	outage    time.Duration // without control plane
	restarts  int           // of all replicas, one after the other
	replicas  int
	rate      float64 // requests per second while replicas are restarted
	jobs      int
	kills     time.Duration // for how long a proxy is killed every five seconds
	blackhole time.Duration // without API server
}

// The short form is for every change; the full one takes an hour and a half.
var (
	short = scale{rotations: 1, outage: 2 * time.Minute, restarts: 2, replicas: 4, rate: 100, jobs: 10, kills: 20 * time.Second, blackhole: 20 * time.Second}
	full  = scale{rotations: 13, rotated: 300_000, outage: 15 * time.Minute, restarts: 20, replicas: 10, rate: 300, jobs: 100, kills: 2 * time.Minute, blackhole: time.Minute}
)

// suite is what the tests share.
type suite struct {
	*harness.Cluster
	scale
	watch *harness.Watchtower
	fleet *fleet
}

func TestMain(m *testing.M) {
	code := m.Run()
	rows.print()
	os.Exit(code)
}

// TestChaos runs one disturbance after the other.
func TestChaos(t *testing.T) {
	cluster, err := harness.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{Cluster: cluster, scale: short}
	if os.Getenv("CHAOS") == "full" {
		s.scale = full
	}
	if err := harness.Eventually(t.Context(), time.Minute, cluster.Installed); err != nil {
		t.Fatal(err)
	}
	s.watch = cluster.Watch(t, harness.Canaries{Secret: "nothing-to-see-here-" + strings.Repeat("0", 18), Open: "nothing-to-see-there-" + strings.Repeat("0", 18)})
	s.fleet = s.newFleet(t)
	for _, disturbance := range []struct {
		name     string
		onlyFull bool
		do       func(*testing.T) string
	}{
		{"root rotated", true, s.rotations},
		{"root rotated, leader killed at each write", false, s.rotationWithKills},
		{"root rotated, a proxy stopped", true, s.rotationWithLaggard},
		{"rotation taken back", true, s.abort},
		{"root compromised", false, s.emergency},
		{"leader stopped until another leads", true, s.twoLeaders},
		{"control plane away", false, s.outage},
		{"API server stopped, then killed", false, s.apiServer},
		{"webhook away", false, s.webhook},
		{"etcd restored to phase Stable", true, s.restored("Stable")},
		{"etcd restored to phase Staged", true, s.restored("Staged")},
		{"etcd restored to phase Signing", true, s.restored("Signing")},
		{"etcd restored to phase Draining", true, s.restored("Draining")},
		{"replicas restarted", false, s.restarts},
		{"replicas restarted that exit at SIGTERM", false, s.abruptRestarts},
		{"a proxy killed every 5 s", false, s.kills},
		{"jobs complete", false, s.jobs},
		{"upgraded from the release before, and back", true, s.upgrades},
		{"node drained", false, s.drain},
	} {
		if disturbance.onlyFull && s.scale != full {
			continue
		}
		t.Run(disturbance.name, func(t *testing.T) {
			start := time.Now()
			row := &row{name: disturbance.name, verdict: "FAILED"}
			defer func() {
				row.took = time.Since(start)
				if !t.Failed() && !t.Skipped() {
					row.verdict = "ok"
				}
				rows.add(row)
			}()
			if skipped := s.needs(disturbance.name); skipped != "" {
				row.verdict, row.words = "skipped", skipped
				t.Skip(skipped)
			}
			row.words = disturbance.do(t)
		})
	}
}

// needs says what somebody else's cluster lacks for a disturbance.
func (s *suite) needs(name string) string {
	insides := strings.HasPrefix(name, "API server") || strings.HasPrefix(name, "etcd")
	if insides && s.Settings.ClusterName == "" {
		return "only a cluster of byrnie-cluster lets its API server be stopped and its etcd be restored"
	}
	if strings.HasPrefix(name, "upgraded") && s.Settings.Previous == "" {
		return "BYRNIE_PREVIOUS_CHART is not set: `make previous` builds the release before"
	}
	return ""
}

// row is a line of the table at the end.
type row struct {
	name, words, verdict string
	took                 time.Duration
}

type table struct {
	sync.Mutex
	all []*row
}

var rows table

func (t *table) add(row *row) {
	t.Lock()
	defer t.Unlock()
	t.all = append(t.all, row)
}

func (t *table) print() {
	t.Lock()
	defer t.Unlock()
	if len(t.all) == 0 {
		return
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "CHAOS\tTOOK\tVERDICT\tWHAT WAS SEEN")
	for _, row := range t.all {
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", row.name, row.took.Round(time.Second), row.verdict, row.words)
	}
	out.Flush()
}
