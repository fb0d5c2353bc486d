package call

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"byrnie.dev/apps/internal/echotest"
	"byrnie.dev/apps/internal/exit"
)

func TestExitCodesAndOutput(t *testing.T) {
	server := echotest.Start(t, "v1")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().String()
	listener.Close()
	base := "http://" + server.Addr("http")
	for _, c := range []struct {
		want options
		code int
		text string
	}{
		{options{url: base + "/?bytes=3"}, 0, "HTTP/1.1 200 OK\n"},
		{options{url: base, h2c: true}, 0, "HTTP/2.0 200 OK\n"},
		{options{url: "https://" + server.Addr("tls")}, 0, "# certificate: CN=byrnie-echo"},
		{options{url: base + "/?status=403"}, exit.HTTPRefused, "403 Forbidden"},
		{options{url: base + "/?status=503"}, exit.HTTPRefused, "503"},
		{options{url: "http://" + closed}, exit.NotReached, ""},
		{options{url: base, headers: []string{"broken"}}, exit.Usage, ""},
		{options{url: base, headers: []string{"Host=other"}, bodyOnly: true}, 0, `"host":"other"`},
		{options{url: base + "/sink", body: "four", bodyOnly: true}, 0, "{\"bodyBytes\":4}\n"},
		{options{url: base + "/sink", bodyStdin: true, bodyOnly: true}, 0, "{\"bodyBytes\":5}\n"},
		{options{url: base + "/?status=403", json: true}, exit.HTTPRefused, `{"status":403,"proto":"HTTP/1.1"`},
		{options{url: "http://" + closed, json: true}, exit.NotReached, `{"error":"GET http://`},
		{options{url: "https://" + server.Addr("tls"), json: true}, 0, `"certificate":"CN=byrnie-echo"`},
		{options{url: base + "/?trailers=1"}, 0, "trailer echo-trailer: after the body"},
	} {
		var out strings.Builder
		c.want.timeout = 5 * time.Second
		err := Do(context.Background(), c.want, strings.NewReader("stdin"), &out)
		if code := exit.CodeOf(err); code != c.code || !strings.Contains(out.String(), c.text) {
			t.Errorf("%+v: code %d (%v), want %d; output %q", c.want, code, err, c.code, out.String())
		}
	}
}
