// Package drivers knows what one request is in each protocol, and how it fails. It does not count or
// pace: package load does.
package drivers

import (
	"fmt"
	"net/http"
	"strings"

	"byrnie.dev/apps/load"
)

// New is the driver for checked options.
func New(options load.Options) (load.Driver, error) {
	switch options.Kind {
	case load.HTTP, load.TLS:
		return newHTTP(options)
	case load.GRPC:
		return newGRPC(options)
	case load.WS:
		return newWebSocket(options)
	case load.TCP:
		return newTCP(options)
	}
	return nil, fmt.Errorf("kind %q is none of http, tls, grpc, ws, tcp", options.Kind)
}

// headersOf splits "k=v" pairs.
func headersOf(pairs []string) (http.Header, error) {
	header := http.Header{}
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("header %q is not k=v", pair)
		}
		header.Add(name, value)
	}
	return header, nil
}
