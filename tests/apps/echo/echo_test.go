package echo_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"byrnie.dev/apps/echo"
	"byrnie.dev/apps/internal/echotest"
	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func client(h2c bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2c)
	protocols.SetUnencryptedHTTP2(h2c)
	return &http.Client{Transport: &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
}

func do(t *testing.T, c *http.Client, method, url, body string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("byrnie-client-id", "spiffe://cluster.local/ns/a/sa/b")
	request.Header.Add("x-two", "1")
	request.Header.Add("x-two", "2")
	response, err := c.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(got)
}

func TestAnswersWhatItReceived(t *testing.T) {
	server := echotest.Start(t, "v1")
	for proto, h2c := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		response, body := do(t, client(h2c), "PUT", "http://"+server.Addr("http")+"/a%2fb/../c?q=%41", "hello")
		var got echo.Answer
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("%s: %v in %q", proto, err, body)
		}
		want := echo.Answer{Proto: proto, Method: "PUT", Path: "/a%2fb/../c", Query: "q=%41", Host: server.Addr("http"),
			ClientID: "spiffe://cluster.local/ns/a/sa/b", BodyBytes: 5}
		if got.Proto != want.Proto || got.Method != want.Method || got.Path != want.Path || got.Query != want.Query ||
			got.Host != want.Host || got.ClientID != want.ClientID || got.BodyBytes != want.BodyBytes {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if two := got.Headers["X-Two"]; len(two) != 2 {
			t.Errorf("%s: headers were merged: %v", proto, two)
		}
		if got.Version != "v1" || response.Header.Get("echo-version") != "v1" || response.Header.Get("echo-client-id") != want.ClientID {
			t.Errorf("%s: not signed: %+v, %v", proto, got.Identity, response.Header)
		}
	}
}

func TestAnswersAsAskedFor(t *testing.T) {
	base := "http://" + echotest.Start(t, "v1").Addr("http")
	for _, c := range []struct {
		query  string
		status int
		size   int
	}{
		{"/?status=503", 503, -1}, {"/?bytes=100000", 200, 100_000}, {"/?bytes=0&status=404", 404, 0},
		{"/?status=99", 400, -1}, {"/?status=x", 400, -1}, {"/?delay=forever", 400, -1}, {"/?bytes=-1", 400, -1}, {"/healthz", 200, 3},
	} {
		response, body := do(t, client(false), "GET", base+c.query, "")
		if response.StatusCode != c.status || (c.size >= 0 && len(body) != c.size) {
			t.Errorf("%s: status %d with %d bytes, want %d with %d", c.query, response.StatusCode, len(body), c.status, c.size)
		}
	}
	start := time.Now()
	do(t, client(false), "GET", base+"/?delay=30ms", "")
	if took := time.Since(start); took < 30*time.Millisecond {
		t.Errorf("delay=30ms took %s", took)
	}
	if _, body := do(t, client(true), "POST", base+"/sink", strings.Repeat("x", 70_000)); body != "{\"bodyBytes\":70000}\n" {
		t.Errorf("sink answered %q", body)
	}
	for _, h2c := range []bool{false, true} {
		if response, _ := do(t, client(h2c), "GET", base+"/?trailers=1", ""); response.Trailer.Get("echo-trailer") == "" {
			t.Errorf("h2c %v: no trailer", h2c)
		}
	}
}

func TestOwnTLS(t *testing.T) {
	server := echotest.Start(t, "v1")
	response, _ := do(t, client(false), "GET", "https://"+server.Addr("tls")+"/", "")
	if name := response.TLS.PeerCertificates[0].Subject.CommonName; name != echo.CommonName {
		t.Errorf("certificate of %q", name)
	}
}

func TestWebSocket(t *testing.T) {
	conn, _, err := websocket.DefaultDialer.Dial("ws://"+echotest.Start(t, "v1").Addr("http")+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, message := range []string{"one", "", strings.Repeat("long", 50_000)} {
		if err := conn.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := conn.ReadMessage(); err != nil || string(got) != message {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
	}
}

func TestTCP(t *testing.T) {
	server := echotest.Start(t, "v1")
	for protocol, banner := range map[string]string{"tcp": "", "server-first": echo.Banner} {
		conn, err := net.Dial("tcp", server.Addr(protocol))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		lines := bufio.NewReader(conn)
		if banner != "" {
			if got, err := lines.ReadString('\n'); err != nil || got != banner {
				t.Fatalf("%s: banner %q, %v", protocol, got, err)
			}
		}
		io.WriteString(conn, "hello\n")
		if got, err := lines.ReadString('\n'); err != nil || got != "hello\n" {
			t.Errorf("%s: got %q, %v", protocol, got, err)
		}
	}
}

func TestGRPCHealth(t *testing.T) {
	conn, err := grpc.NewClient(echotest.Start(t, "v1").Addr("grpc"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(context.Background(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("got %v, %v", answer, err)
	}
}
