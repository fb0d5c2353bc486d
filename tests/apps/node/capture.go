package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"byrnie.dev/apps/internal/exit"
	"golang.org/x/sys/unix"
)

// Counts is what a capture has seen so far.
type Counts struct {
	Interface string              `json:"interface"`
	Packets   int64               `json:"packets"`
	Dropped   int64               `json:"dropped"` // by the kernel, unseen
	Found     map[string]int64    `json:"found"`
	Examples  map[string][]string `json:"examples,omitempty"` // source -> destination of the first few
}

const maxExamples = 4

// A capture looks for texts in every packet of an interface.
type capture struct {
	socket int
	texts  map[string][]byte
	mu     sync.Mutex
	counts Counts
}

// open makes the socket. The first of the interfaces that exists is watched; when none does, all but
// the loopback.
func open(interfaces []string, texts map[string]string) (*capture, error) {
	c := &capture{texts: map[string][]byte{}, counts: Counts{Found: map[string]int64{}, Examples: map[string][]string{}}}
	for name, text := range texts {
		if len(text) < 8 {
			return nil, fmt.Errorf("%q is so short that it would be found by chance", text)
		}
		c.texts[name], c.counts.Found[name] = []byte(text), 0
	}
	index := 0
	c.counts.Interface = "all"
	for _, name := range interfaces {
		if found, err := net.InterfaceByName(name); err == nil {
			index, c.counts.Interface = found.Index, name
			break
		}
	}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(networkOrder(unix.ETH_P_ALL)))
	if err != nil {
		return nil, fmt.Errorf("open a packet socket (needs CAP_NET_RAW): %w", err)
	}
	c.socket = socket
	if err := c.prepare(index); err != nil {
		unix.Close(socket)
		return nil, err
	}
	return c, nil
}

func (c *capture) prepare(index int) error {
	if err := unix.Bind(c.socket, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: index}); err != nil {
		return fmt.Errorf("bind to interface %s: %w", c.counts.Interface, err)
	}
	if index != 0 {
		// A bridge hands up what passes between its ports only to those who ask for everything.
		membership := &unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(c.socket, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, membership); err != nil {
			return fmt.Errorf("set interface %s promiscuous: %w", c.counts.Interface, err)
		}
	}
	const buffer = 64 << 20
	if unix.SetsockoptInt(c.socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
		unix.SetsockoptInt(c.socket, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer) // less; drops are reported
	}
	return unix.SetsockoptTimeval(c.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000})
}

// run reads until ctx ends.
func (c *capture) run(ctx context.Context) error {
	loopback := 0
	if lo, err := net.InterfaceByName("lo"); err == nil && c.counts.Interface == "all" {
		loopback = lo.Index
	}
	// What is not read in time is lost: on a busy machine this thread goes first, where it may.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -10); err != nil && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
		return err
	}
	packet := make([]byte, 256<<10)
	for ctx.Err() == nil {
		n, from, err := unix.Recvfrom(c.socket, packet, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read packets: %w", err)
		}
		if link, ok := from.(*unix.SockaddrLinklayer); ok && loopback != 0 && link.Ifindex == loopback {
			continue
		}
		c.look(packet[:n])
	}
	return nil
}

func (c *capture) look(packet []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Packets++
	for name, text := range c.texts {
		if !bytes.Contains(packet, text) {
			continue
		}
		c.counts.Found[name]++
		if len(c.counts.Examples[name]) < maxExamples {
			c.counts.Examples[name] = append(c.counts.Examples[name], endsOf(packet))
		}
	}
}

func (c *capture) snapshot() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Reading the statistics resets them.
	if statistics, err := unix.GetsockoptTpacketStats(c.socket, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
		c.counts.Dropped += int64(statistics.Drops)
	}
	copied := c.counts
	copied.Found, copied.Examples = map[string]int64{}, map[string][]string{}
	for name, count := range c.counts.Found {
		copied.Found[name] = count
	}
	for name, examples := range c.counts.Examples {
		copied.Examples[name] = append([]string(nil), examples...)
	}
	return copied
}

// endsOf is "source -> destination" of an Ethernet frame with IPv4 and TCP or UDP in it.
func endsOf(frame []byte) string {
	const ethernet, ipv4 = 14, 20
	if len(frame) < ethernet+ipv4+4 || frame[12] != 8 || frame[13] != 0 {
		return fmt.Sprintf("%d bytes that are not IPv4", len(frame))
	}
	ip := frame[ethernet:]
	size := int(ip[0]&15) * 4
	if len(ip) < size+4 {
		return "a short packet"
	}
	port := func(at int) int { return int(ip[size+at])<<8 | int(ip[size+at+1]) }
	return fmt.Sprintf("%s:%d -> %s:%d", net.IP(ip[12:16]), port(0), net.IP(ip[16:20]), port(2))
}

func networkOrder(value uint16) uint16 { return value<<8 | value>>8 }

func captureMain(ctx context.Context, args []string) error {
	texts := map[string]string{}
	flags := flag.NewFlagSet("node capture", flag.ContinueOnError)
	interfaces := flags.String("interface", "cni0", "the first of these that exists (comma list); else all but the loopback")
	address := flags.String("listen", "127.0.0.1:17998", "`address` that answers the counts to any GET")
	flags.Func("find", "`NAME=TEXT` to look for, repeatable", func(pair string) error {
		name, text, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=TEXT", pair)
		}
		texts[name] = text
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return exit.With(exit.Usage, err)
	}
	c, err := open(strings.Split(*interfaces, ","), texts)
	if err != nil {
		return err
	}
	defer unix.Close(c.socket)
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(c.snapshot())
	})}
	go server.Serve(listener)
	defer server.Close()
	return c.run(ctx)
}
