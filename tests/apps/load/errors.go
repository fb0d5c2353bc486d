package load

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"regexp"
)

// local matches the address pair in texts such as "read tcp 10.0.0.1:43210->10.0.0.2:80: ...": the
// local port would make each error a kind of its own.
var local = regexp.MustCompile(`\S+:\d+->`)

// describe is the text under which an error is counted: the same cause gives the same text.
func describe(err error) string {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return "timed out"
	}
	var call *url.Error
	if errors.As(err, &call) {
		err = call.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op + ": " + op.Err.Error()
	}
	return local.ReplaceAllString(err.Error(), "->")
}
