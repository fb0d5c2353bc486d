// Package load drives a server with a bounded number of requests and counts what came back. It knows
// pacing, counting and reporting; what a request is, the drivers know (package load/drivers).
package load

import (
	"flag"
	"fmt"
	"strings"
	"time"
)

// Kinds of load, one driver each.
const (
	HTTP = "http"
	TLS  = "tls" // HTTP over TLS of the app's own
	GRPC = "grpc"
	WS   = "ws"
	TCP  = "tcp"
)

// Options say what to send, how much of it, and how to count it. The same struct is the command line
// and the body of the agent's POST /run.
type Options struct {
	Kind string `json:"kind"`
	// URL for http, tls and ws; host:port for grpc and tcp. Several with commas between them: each
	// connection goes to the next.
	Target string `json:"target"`

	Connections int      `json:"connections,omitempty"`
	Streams     int      `json:"streams,omitempty"` // concurrent requests on each connection, HTTP/2 and gRPC only
	Requests    int64    `json:"requests,omitempty"`
	Duration    Duration `json:"duration,omitzero"`
	Rate        float64  `json:"rate,omitempty"`      // requests per second over all connections (open loop); 0: as fast as answers come
	Poisson     bool     `json:"poisson,omitempty"`   // gaps by chance instead of even ones
	Timeout     Duration `json:"timeout,omitzero"`    // of one try
	Retries     int      `json:"retries,omitempty"`   // how often a failed request is sent again at once
	WarmUp      Duration `json:"warmUp,omitzero"`     // what is due in this time from the start is not counted
	Series      Duration `json:"series,omitzero"`     // length of the intervals of the report's series
	Deadline    Duration `json:"deadline,omitzero"`   // tells the test server (not the proxies) when an answer is of no use any more
	Reconnect   bool     `json:"reconnect,omitempty"` // a new connection for each request

	H2C       bool     `json:"h2c,omitempty"` // HTTP/2 with prior knowledge
	Method    string   `json:"method,omitempty"`
	Headers   []string `json:"headers,omitempty"` // k=v
	BodyBytes int64    `json:"bodyBytes,omitempty"`

	Call     string `json:"call,omitempty"`     // grpc: unary, server, client or bidi
	Messages int    `json:"messages,omitempty"` // per gRPC stream or per WebSocket request

	Send   string `json:"send,omitempty"`   // tcp: bytes of one request, Go escapes allowed
	Expect string `json:"expect,omitempty"` // tcp: what the answer must start with; default: what was sent
	Banner string `json:"banner,omitempty"` // tcp: what the server says first

	// Any of version, pod, clientId, reason, or header:NAME.
	GroupBy []string `json:"groupBy,omitempty"`
}

// Bounds that no option may exceed: a load that somebody forgot ends by itself.
const (
	maxConnections = 10_000
	maxDuration    = 30 * time.Minute
	maxRetries     = 10
)

// DeadlineHeader says to the test server `faulty`, in Unix nanoseconds, when an answer is of no use any
// more. No proxy knows it: it is the truth that their own deadlines are measured by.
const DeadlineHeader = "Load-Deadline"

// Register binds the options to flags.
func (o *Options) Register(flags *flag.FlagSet) {
	flags.StringVar(&o.Target, "url", "", "URL (http, tls, ws) or host:port (grpc, tcp) `target`; several with commas between them")
	flags.IntVar(&o.Connections, "connections", 1, "connections that are kept open")
	flags.IntVar(&o.Streams, "streams", 1, "concurrent requests on each connection (h2c, grpc)")
	flags.Int64Var(&o.Requests, "requests", 0, "end after this many requests")
	flags.TextVar(&o.Duration, "duration", Duration(0), "end after this `time`")
	flags.Float64Var(&o.Rate, "rate", 0, "requests per second, sent whether or not answers come (open loop)")
	flags.BoolVar(&o.Poisson, "poisson", false, "with --rate: exponential gaps between the requests, not even ones")
	flags.TextVar(&o.Timeout, "timeout", Duration(10*time.Second), "of one try of a request")
	flags.IntVar(&o.Retries, "retries", 0, "send a failed request again at once, so many times")
	flags.TextVar(&o.WarmUp, "warm-up", Duration(0), "do not count what is due in this `time` from the start")
	flags.TextVar(&o.Series, "series", Duration(0), "also count by intervals of this `time`, by when requests were due")
	flags.TextVar(&o.Deadline, "deadline", Duration(0), "tell `faulty` in a header when the answer is of no use any more")
	flags.BoolVar(&o.Reconnect, "reconnect", false, "open a new connection for each request")
	flags.BoolVar(&o.H2C, "h2c", false, "HTTP/2 without TLS, prior knowledge")
	flags.StringVar(&o.Method, "method", "", "HTTP method (default GET, POST with a body)")
	flags.Func("header", "`k=v`, repeatable", appendTo(&o.Headers))
	flags.Int64Var(&o.BodyBytes, "body-bytes", 0, "size of the request's body")
	flags.StringVar(&o.Call, "call", "unary", "gRPC call: unary, server, client or bidi")
	flags.IntVar(&o.Messages, "messages", 10, "messages in each gRPC stream or WebSocket request")
	flags.StringVar(&o.Send, "send", "ping\\n", "bytes of one TCP request, with Go escapes")
	flags.StringVar(&o.Expect, "expect", "", "what the TCP answer must start with (default: what was sent)")
	flags.StringVar(&o.Banner, "banner", "", "what a TCP server must say first")
	flags.Func("group-by", "version, pod, clientId, reason or header:NAME; repeatable", appendTo(&o.GroupBy))
}

// Check fills in defaults and refuses what is not bounded or makes no sense.
func (o *Options) Check() error {
	o.Connections, o.Streams, o.Messages = max(o.Connections, 1), max(o.Streams, 1), max(o.Messages, 1)
	if o.Timeout == 0 {
		o.Timeout = Duration(10 * time.Second)
	}
	if o.Send == "" {
		o.Send = `ping\n`
	}
	if o.Call == "" {
		o.Call = "unary"
	}
	switch {
	case o.Target == "":
		return fmt.Errorf("no target: give --url")
	case o.Connections > maxConnections:
		return fmt.Errorf("%d connections are above the bound of %d", o.Connections, maxConnections)
	case o.Requests <= 0 && o.Duration <= 0:
		return fmt.Errorf("unbounded: give --requests or --duration")
	case time.Duration(o.Duration) > maxDuration:
		return fmt.Errorf("duration %s is above the bound of %s", time.Duration(o.Duration), maxDuration)
	case o.Rate < 0:
		return fmt.Errorf("rate %v is negative", o.Rate)
	case o.Poisson && o.Rate == 0:
		return fmt.Errorf("--poisson needs a --rate")
	case o.Retries < 0 || o.Retries > maxRetries:
		return fmt.Errorf("%d retries are not 0 to %d", o.Retries, maxRetries)
	case o.Series > 0 && time.Duration(o.Series) < 10*time.Millisecond:
		return fmt.Errorf("intervals of %s are below the bound of 10ms", time.Duration(o.Series))
	}
	if o.Duration <= 0 {
		o.Duration = Duration(maxDuration)
	}
	for _, key := range o.GroupBy {
		if _, err := headerOfGroup(key); err != nil {
			return err
		}
	}
	return nil
}

// Duration is a time.Duration that reads and writes as "1.5s", in flags and JSON alike.
type Duration time.Duration

func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

func appendTo(list *[]string) func(string) error {
	return func(value string) error {
		*list = append(*list, strings.Split(value, ",")...)
		return nil
	}
}
