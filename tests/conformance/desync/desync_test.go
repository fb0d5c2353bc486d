package main

import "testing"

func TestStrictReader(t *testing.T) {
	for _, c := range []struct {
		stream   string
		requests int
		open     bool
	}{
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1, true},
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 2, true},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 1, false},
		{"GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n", 1, false},
		{"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 1, false},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab", 0, true},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\nX: y\r\n\r\n", 1, true},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", 0, false},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 0, false},
		{"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 0, false},
		{"GET / HTTP/1.1\nHost: a\n\n", 0, false},
	} {
		if got := strict([]byte(c.stream)); len(got.requests) != c.requests || got.open != c.open {
			t.Errorf("%q is read as %+v", c.stream, got)
		}
	}
}

func TestJournal(t *testing.T) {
	one := request{method: "POST", target: "/a?b", length: 3}
	line := logLine{Destination: "desync/go:80", Method: "POST", Path: "/a", Status: 200, Received: 3}
	differ := func(smuggled, invented int, fill func(*journal)) {
		t.Helper()
		j := newJournal()
		fill(j)
		if s, i := j.differences(); len(s) != smuggled || len(i) != invented {
			t.Errorf("smuggled %v, invented %v", s, i)
		}
	}
	differ(0, 0, func(j *journal) { j.saw("go", complete, one); j.forwards(line) })
	differ(1, 0, func(j *journal) { j.saw("go", complete, one) })
	differ(0, 1, func(j *journal) { j.forwards(line) })
	differ(1, 1, func(j *journal) { j.saw("node", complete, one); j.forwards(line) })
	longer := line
	longer.Received = 4
	differ(1, 1, func(j *journal) { j.saw("go", complete, one); j.forwards(longer) })
	differ(1, 0, func(j *journal) { j.saw("go", complete, one); j.saw("go", complete, one); j.forwards(line) })
	differ(1, 0, func(j *journal) { j.saw("go", refused, request{}) })
	differ(1, 0, func(j *journal) { j.saw("go", cut, one) })
	gone := line
	gone.Status, gone.Reason = 0, "client-gone"
	differ(0, 0, func(j *journal) { j.saw("go", cut, one); j.forwards(gone) })
}
