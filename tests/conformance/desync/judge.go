package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"
)

// patience with whoever neither answers nor ends the connection.
var patience = 10 * time.Second

// outcome is what came of a stream.
type outcome struct {
	// requests that a backend answered, and of those that the strict reader has, those that the proxy did not admit.
	answered, withheld int
	// what is wrong, one line; empty when nothing is.
	wrong string
}

// send writes the stream, in one piece or some, and compares every answer with what the strict reader read.
func send(address string, stream []byte, random *rand.Rand) outcome {
	expected := strict(stream)
	connection, err := dial(address, random)
	if err != nil {
		return outcome{wrong: "the proxy takes no connection: " + err.Error()}
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(patience))
	for rest := stream; len(rest) > 0; {
		size := len(rest)
		if random.IntN(10) == 0 {
			size = 1 + random.IntN(size)
		}
		if _, err := connection.Write(rest[:size]); err != nil {
			break // it was refused already; the answer says so
		}
		rest = rest[size:]
	}
	return answers(connection, expected)
}

func answers(connection net.Conn, expected reading) (o outcome) {
	from := bufio.NewReaderSize(connection, 2048)
	requests := expected.requests
	for index := 0; ; {
		if expected.open && index == len(requests) {
			break // whatever else there is waits for more of the stream
		}
		asked := http.Request{Method: "GET"}
		if index < len(requests) {
			asked.Method = requests[index].method
		}
		response, err := http.ReadResponse(from, &asked)
		if err != nil {
			if timeout, is := err.(net.Error); is && timeout.Timeout() {
				o.wrong = fmt.Sprintf("after %d of %d answers the proxy is silent", index, len(requests))
			}
			o.withheld = len(requests) - index
			return o
		}
		_, err = io.Copy(io.Discard, response.Body)
		if err != nil {
			return o
		}
		if response.StatusCode < 200 {
			continue
		}
		words, reason := response.Header.Get(echo), response.Header.Get("byrnie-reason")
		switch {
		case words == "" && expected.refusedAt[index]:
		case words == "" && strings.HasSuffix(reason, "-reset"):
			// the backend refused so rudely that its answer was lost
		case words == "" && reason != "":
			// it may be stricter; then nothing follows
			o.withheld = max(0, len(requests)-index)
			index = len(requests)
		case words == "":
			// the backend understood the head, and refuses what it says
		default:
			seen, err := parse(words)
			o.answered++
			switch {
			case err != nil:
				o.wrong = err.Error()
			case index >= len(requests):
				o.wrong = fmt.Sprintf("the backend answered request %d, which a strict reader does not read: %+v", index, seen)
			case !seen.same(requests[index]):
				o.wrong = fmt.Sprintf("the backend read request %d as %+v, a strict reader as %+v", index, seen, requests[index])
			case expected.refusedAt[index]:
				o.wrong = fmt.Sprintf("request %d has an expectation that nobody knows, and was forwarded", index)
			}
			if o.wrong != "" {
				return o
			}
		}
		index++
		if response.Close {
			o.withheld = max(0, len(requests)-index)
			return o
		}
	}
	return o
}

// same compares what both know: HTTP/1.0 may have no Host, Connection may nominate the nonce, and Node joins two.
func (one request) same(other request) bool {
	return one.method == other.method && one.target == other.target && one.length == other.length && one.hash == other.hash &&
		(other.host == "" || one.host == other.host) && (one.nonce == "" || strings.HasPrefix(one.nonce, other.nonce))
}

// dial leaves from one of many loopback addresses, so that no port has to be used again soon.
func dial(address string, random *rand.Rand) (net.Conn, error) {
	from := &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+random.IntN(250)), byte(1+random.IntN(250)))}
	dialer := net.Dialer{LocalAddr: from, Timeout: patience}
	connection, err := dialer.Dial("tcp", address)
	if err == nil {
		// a reset at the end leaves nothing behind
		_ = connection.(*net.TCPConn).SetLinger(0)
	}
	return connection, err
}
