package node

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCaptureFindsWhatPassesInClear(t *testing.T) {
	c, err := open([]string{"lo"}, map[string]string{"sent": "canary-that-is-sent", "kept": "canary-that-is-not"})
	if errors.Is(err, unix.EPERM) {
		t.Skip("packet sockets need CAP_NET_RAW")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(c.socket)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.run(ctx) }()
	receiver, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	sender, err := net.Dial("udp", receiver.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	deadline := time.Now().Add(5 * time.Second)
	for c.snapshot().Found["sent"] == 0 && time.Now().Before(deadline) {
		sender.Write([]byte("before canary-that-is-sent after"))
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	counts := c.snapshot()
	if counts.Found["sent"] == 0 || counts.Found["kept"] != 0 || counts.Interface != "lo" {
		t.Errorf("%+v", counts)
	}
	if example := counts.Examples["sent"][0]; !strings.Contains(example, receiver.LocalAddr().String()) {
		t.Errorf("example %q does not name %s", example, receiver.LocalAddr())
	}
}

func TestShortTextsAreRefused(t *testing.T) {
	if _, err := open(nil, map[string]string{"x": "abc"}); err == nil {
		t.Error("accepted")
	}
}

// A /proc of two containers' processes.
func fakeProc(t *testing.T) (dir, one, other string) {
	t.Helper()
	dir, one, other = t.TempDir(), strings.Repeat("a", 64), strings.Repeat("b", 64)
	for pid, container := range map[int]string{10: one, 11: other, 12: one} {
		process := filepath.Join(dir, strconv.Itoa(pid))
		if err := os.Mkdir(process, 0o700); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(filepath.Join(process, "cgroup"), []byte("4:memory:/kubepods/pod1/"+container+"\n"), 0o600)
		os.WriteFile(filepath.Join(process, "status"), []byte("Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t     512 kB\n"), 0o600)
	}
	return dir, one, other
}

func TestFindsAContainersProcessesAndMemory(t *testing.T) {
	dir, one, _ := fakeProc(t)
	pids, err := processesOf(dir, one)
	if err != nil || len(pids) != 2 {
		t.Fatalf("%v, %v", pids, err)
	}
	memory, err := memoryOf(dir, pids)
	if err != nil || memory != (Memory{Processes: 2, Resident: 4 << 20, Anonymous: 1 << 20}) {
		t.Errorf("%+v, %v", memory, err)
	}
	for _, id := range []string{"", "a", strings.Repeat("c", 64)} {
		if _, err := processesOf(dir, id); err == nil {
			t.Errorf("found processes of %q", id)
		}
	}
}
