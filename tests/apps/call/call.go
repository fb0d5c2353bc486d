// Package call is the command `call`: one HTTP request, and everything about its answer.
package call

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"byrnie.dev/apps/internal/exit"
)

type options struct {
	url, method, body        string
	headers                  []string
	timeout                  time.Duration
	h2c, bodyOnly, bodyStdin bool
}

// Main is the command `call`. It ends with 0 on 2xx and 3xx, 22 on 4xx and 5xx, 7 when there was no
// answer, as curl does.
func Main(ctx context.Context, args []string) error {
	var want options
	flags := flag.NewFlagSet("call", flag.ContinueOnError)
	flags.StringVar(&want.method, "method", "", "method (default GET, POST with a body)")
	flags.StringVar(&want.body, "body", "", "body to send")
	flags.BoolVar(&want.bodyStdin, "body-stdin", false, "send what stdin says")
	flags.Func("header", "`k=v`, repeatable", func(pair string) error {
		want.headers = append(want.headers, pair)
		return nil
	})
	flags.DurationVar(&want.timeout, "timeout", 10*time.Second, "of the whole call")
	flags.BoolVar(&want.h2c, "h2c", false, "HTTP/2 without TLS, prior knowledge")
	flags.BoolVar(&want.bodyOnly, "body-only", false, "print nothing but the body")
	if err := flags.Parse(args); err != nil {
		return exit.With(exit.Usage, err)
	}
	if flags.NArg() != 1 {
		return exit.With(exit.Usage, fmt.Errorf("usage: call [flags] URL"))
	}
	want.url = flags.Arg(0)
	return Do(ctx, want, os.Stdin, os.Stdout)
}

// Do sends the request and prints the answer to out.
func Do(ctx context.Context, want options, stdin io.Reader, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, want.timeout)
	defer cancel()
	request, err := newRequest(ctx, want, stdin)
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!want.h2c)
	protocols.SetUnencryptedHTTP2(want.h2c)
	var local, remote string
	transport := &http.Transport{
		Protocols:       protocols,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the certificate is printed, not trusted
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				local, remote = conn.LocalAddr().String(), conn.RemoteAddr().String()
			}
			return conn, err
		},
	}
	start := time.Now()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return exit.With(exit.NotReached, fmt.Errorf("%s %s: %w", request.Method, want.url, err))
	}
	defer response.Body.Close()
	firstByte := time.Since(start)
	if !want.bodyOnly {
		fmt.Fprintf(out, "%s %s\n", response.Proto, response.Status)
		printHeaders(out, "", response.Header)
		if response.TLS != nil {
			fmt.Fprintf(out, "# certificate: %s\n", response.TLS.PeerCertificates[0].Subject)
		}
		fmt.Fprintln(out)
	}
	size, err := io.Copy(out, response.Body)
	if err != nil {
		return exit.With(exit.NotReached, fmt.Errorf("%s %s: read the body: %w", request.Method, want.url, err))
	}
	if !want.bodyOnly {
		printHeaders(out, "trailer ", response.Trailer)
		fmt.Fprintf(out, "# %s -> %s: headers after %.1f ms, %d bytes after %.1f ms\n",
			local, remote, ms(firstByte), size, ms(time.Since(start)))
	}
	if response.StatusCode >= 400 {
		return exit.With(exit.HTTPRefused, nil)
	}
	return nil
}

func newRequest(ctx context.Context, want options, stdin io.Reader) (*http.Request, error) {
	var body io.Reader
	switch {
	case want.bodyStdin:
		body = stdin
	case want.body != "":
		body = strings.NewReader(want.body)
	}
	if want.method == "" {
		want.method = http.MethodGet
		if body != nil {
			want.method = http.MethodPost
		}
	}
	request, err := http.NewRequestWithContext(ctx, want.method, want.url, body)
	if err != nil {
		return nil, err
	}
	for _, pair := range want.headers {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("header %q is not k=v", pair)
		}
		if strings.EqualFold(name, "Host") {
			request.Host = value
			continue
		}
		request.Header.Add(name, value)
	}
	return request, nil
}

func printHeaders(out io.Writer, prefix string, header http.Header) {
	for _, name := range slices.Sorted(maps.Keys(header)) {
		for _, value := range header[name] {
			fmt.Fprintf(out, "%s%s: %s\n", prefix, strings.ToLower(name), value)
		}
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
