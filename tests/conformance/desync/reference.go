package main

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"strconv"
	"strings"
)

// request is what a reader says that it read.
type request struct {
	method, target, host, nonce string
	length                      int
	hash                        string
}

// reading is what a stream means to a reader that forgives nothing (RFC 9112). A proxy may refuse more than this
// reader does; it must not understand more, nor something else.
type reading struct {
	requests []request
	// refusedAt are requests that are answered without being forwarded, and the connection goes on.
	refusedAt map[int]bool
	// open: the stream ended where more could follow; else the connection ends after the last request.
	open bool
}

type refusal string

// strict reads a stream.
func strict(stream []byte) (r reading) {
	r.refusedAt = map[int]bool{}
	at := 0
	defer func() {
		if why := recover(); why != nil {
			if _, ours := why.(refusal); !ours {
				panic(why)
			}
			r.open = why == refusal("more")
		}
	}()
	line := func() []byte {
		end := bytes.IndexByte(stream[at:], '\n')
		if end < 0 {
			panic(refusal("more"))
		}
		text := stream[at : at+end]
		at += end + 1
		if !bytes.HasSuffix(text, []byte("\r")) {
			panic(refusal("a bare line feed"))
		}
		return text[:len(text)-1]
	}
	take := func(n int) []byte {
		if n > len(stream)-at {
			panic(refusal("more"))
		}
		at += n
		return stream[at-n : at]
	}
	for {
		first := line()
		if len(first) == 0 {
			first = line()
		}
		one, head := requestLine(first), fields{}
		for {
			text := line()
			if len(text) == 0 {
				break
			}
			head.add(text)
		}
		one.nonce, one.host = strings.Join(head.nonces[:min(1, len(head.nonces))], ""), head.host(one, bytes.HasSuffix(first, []byte("1.1")))
		if one.target = path(one.target); one.target == "" {
			panic(refusal("no target"))
		}
		body := head.body(line, take, bytes.HasSuffix(first, []byte("1.1")))
		one.length, one.hash = len(body), fmt.Sprintf("%x", md5.Sum(body))
		if head.expect != nil && !strings.EqualFold(head.expect[0], "100-continue") {
			r.refusedAt[len(r.requests)] = true
		}
		r.requests = append(r.requests, one)
		if head.last(bytes.HasSuffix(first, []byte("1.1"))) {
			return r
		}
	}
}

func must(true bool, why string) {
	if !true {
		panic(refusal(why))
	}
}

func requestLine(line []byte) request {
	words := strings.Split(string(line), " ")
	must(len(words) == 3, "the request line")
	must(token(words[0]) && words[0] != "CONNECT", "the method")
	must(words[2] == "HTTP/1.1" || words[2] == "HTTP/1.0", "the version")
	for _, b := range []byte(words[1]) {
		must(b > 0x20 && b != 0x7f && b != '#', "the target")
	}
	return request{method: words[0], target: words[1]}
}

// path is the target in the form in which it is forwarded.
func path(target string) string {
	if len(target) > 7 && strings.EqualFold(target[:7], "http://") {
		rest := target[7:]
		end := strings.IndexAny(rest, "/?")
		if end < 0 {
			return "/"
		}
		if rest[end] == '?' {
			return "/" + rest[end:]
		}
		return rest[end:]
	}
	return target
}

type fields struct {
	hosts, lengths, codings, expect, connection, nonces []string
	upgrade                                             bool
}

func (f *fields) add(line []byte) {
	name, value, found := strings.Cut(string(line), ":")
	must(found && token(name), "a header name")
	for _, b := range []byte(value) {
		must(b >= 0x20 && b != 0x7f || b == '\t', "a header value")
	}
	value = strings.Trim(value, " \t")
	switch strings.ToLower(name) {
	case "host":
		f.hosts = append(f.hosts, value)
	case "content-length":
		f.lengths = append(f.lengths, value)
	case "transfer-encoding":
		f.codings = append(f.codings, value)
	case "expect":
		f.expect = append(f.expect, value)
	case "upgrade":
		f.upgrade = true
	case "x-nonce":
		f.nonces = append(f.nonces, value)
	case "connection":
		for token := range strings.SplitSeq(strings.ToLower(value), ",") {
			f.connection = append(f.connection, strings.Trim(token, " \t"))
		}
	}
}

func (f *fields) host(one request, current bool) string {
	must(len(f.hosts) == 1 || len(f.hosts) == 0 && !current, "the host")
	host := ""
	if len(f.hosts) == 1 {
		host = f.hosts[0]
		must(!strings.ContainsAny(host, " ,@/?#\\\"<>{}|^`\t"), "the host")
	}
	absolute := len(one.target) > 7 && strings.EqualFold(one.target[:7], "http://")
	if absolute {
		authority := one.target[7:]
		if end := strings.IndexAny(authority, "/?"); end >= 0 {
			authority = authority[:end]
		}
		must(authority != "" && (len(f.hosts) == 0 || strings.EqualFold(authority, host)), "the authority")
		return host
	}
	must(strings.HasPrefix(one.target, "/") || one.target == "*" && one.method == "OPTIONS", "the target")
	return host
}

func (f *fields) body(line func() []byte, take func(int) []byte, current bool) []byte {
	must(len(f.lengths)+len(f.codings) <= 1, "the framing")
	if len(f.codings) == 1 {
		must(current && strings.EqualFold(f.codings[0], "chunked"), "the coding")
		return chunks(line, take)
	}
	if len(f.lengths) == 0 {
		return nil
	}
	length, err := strconv.ParseUint(f.lengths[0], 10, 63)
	must(err == nil && strconv.FormatUint(length, 10) == f.lengths[0], "the length")
	return take(int(length))
}

func chunks(line func() []byte, take func(int) []byte) (body []byte) {
	for {
		text := string(line())
		size, extension, extended := strings.Cut(text, ";")
		size = strings.TrimRight(size, " \t")
		for _, b := range []byte(extension) {
			must(b >= 0x20 && b != 0x7f || b == '\t', "a chunk extension")
		}
		must(extended || extension == "", "a chunk size")
		must(size != "" && len(size) < 16 && strings.Trim(size, "0123456789abcdefABCDEF") == "", "a chunk size")
		length, _ := strconv.ParseInt(size, 16, 63)
		if length == 0 {
			break
		}
		body = append(body, take(int(length))...)
		must(string(take(1)) == "\r" && string(take(1)) == "\n", "the end of a chunk")
	}
	for text := line(); len(text) > 0; text = line() {
		var trailer fields
		trailer.add(text)
		must(trailer.hosts == nil && trailer.lengths == nil && trailer.codings == nil, "a trailer")
	}
	return body
}

// last: nothing that follows is a request of this connection. After a request to upgrade nobody knows.
func (f *fields) last(current bool) bool {
	says := func(word string) bool {
		for _, token := range f.connection {
			if token == word {
				return true
			}
		}
		return false
	}
	return f.upgrade || says("close") || !current && !says("keep-alive")
}

func token(name string) bool {
	for _, b := range []byte(name) {
		if !(b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0) {
			return false
		}
	}
	return name != ""
}
