// Package call is the command `call`: one HTTP request, and everything about its answer.
package call

import (
	"context"
	"crypto/tls"
	"encoding/json"
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
	json                     bool
}

// Answer is what `--json` prints, on one line.
type Answer struct {
	Error       string      `json:"error,omitempty"` // then there was no answer
	Status      int         `json:"status,omitempty"`
	Proto       string      `json:"proto,omitempty"`
	Header      http.Header `json:"header,omitempty"`
	Body        string      `json:"body,omitempty"`
	Trailer     http.Header `json:"trailer,omitempty"`
	Certificate string      `json:"certificate,omitempty"`
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
	flags.BoolVar(&want.json, "json", false, "print the answer, or why there is none, as JSON")
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
	trace := &connection{}
	start := time.Now()
	response, err := trace.transport(want.h2c).RoundTrip(request)
	if err != nil {
		return notReached(want, out, fmt.Errorf("%s %s: %w", request.Method, want.url, err))
	}
	defer response.Body.Close()
	firstByte := time.Since(start)
	switch {
	case want.json:
		err = printJSON(out, response)
	case want.bodyOnly:
		_, err = io.Copy(out, response.Body)
	default:
		err = printAll(out, response)
	}
	if err != nil {
		return notReached(want, out, fmt.Errorf("%s %s: read the body: %w", request.Method, want.url, err))
	}
	if !want.json && !want.bodyOnly {
		fmt.Fprintf(out, "# %s -> %s: headers after %.1f ms, all after %.1f ms\n",
			trace.local, trace.remote, ms(firstByte), ms(time.Since(start)))
	}
	if response.StatusCode >= 400 {
		return exit.With(exit.HTTPRefused, nil)
	}
	return nil
}

// connection remembers between whom it was.
type connection struct{ local, remote string }

func (c *connection) transport(h2c bool) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2c)
	protocols.SetUnencryptedHTTP2(h2c)
	return &http.Transport{
		Protocols:       protocols,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the certificate is printed, not trusted
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				c.local, c.remote = conn.LocalAddr().String(), conn.RemoteAddr().String()
			}
			return conn, err
		},
	}
}

func notReached(want options, out io.Writer, err error) error {
	if want.json {
		json.NewEncoder(out).Encode(Answer{Error: err.Error()})
		return exit.With(exit.NotReached, nil)
	}
	return exit.With(exit.NotReached, err)
}

func printJSON(out io.Writer, response *http.Response) error {
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	answer := Answer{Status: response.StatusCode, Proto: response.Proto, Header: response.Header, Body: string(body), Trailer: response.Trailer}
	if response.TLS != nil {
		answer.Certificate = response.TLS.PeerCertificates[0].Subject.String()
	}
	return json.NewEncoder(out).Encode(answer)
}

func printAll(out io.Writer, response *http.Response) error {
	fmt.Fprintf(out, "%s %s\n", response.Proto, response.Status)
	printHeaders(out, "", response.Header)
	if response.TLS != nil {
		fmt.Fprintf(out, "# certificate: %s\n", response.TLS.PeerCertificates[0].Subject)
	}
	fmt.Fprintln(out)
	if _, err := io.Copy(out, response.Body); err != nil {
		return err
	}
	printHeaders(out, "trailer ", response.Trailer)
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
