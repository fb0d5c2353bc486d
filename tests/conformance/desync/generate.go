package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
)

// generator makes one stream; the same seed and number make the same bytes.
type generator struct {
	*rand.Rand
	stream, request int
}

// generate writes some requests behind each other, good and bad ones, and a last one that ends the connection.
func generate(seed uint64, number int) []byte {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, uint64(number))), stream: number}
	var out bytes.Buffer
	for range 1 + g.IntN(4) {
		out.WriteString(g.message())
	}
	fmt.Fprintf(&out, "GET /s%d/end HTTP/1.1\r\nHost: a\r\nX-Nonce: s%d-end\r\nConnection: close\r\n\r\n", number, number)
	stream := out.Bytes()
	if g.in(12) {
		for range 1 + g.IntN(3) {
			stream = g.mutate(stream)
		}
	}
	return stream
}

func (g *generator) in(percent int) bool { return g.IntN(100) < percent }

func (g *generator) one(of []string) string { return of[g.IntN(len(of))] }

var (
	methods = []string{
		"GET", "GET", "GET", "POST", "POST", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "get", "FOO", "M-SEARCH",
	}
	suffixes = []string{
		"", "", "", "", "?q=1", "/../a", "//b", "/%2e%2e/c", "/%2f", "/a;b=c", "/a?b?c", "/%61", "/\\", "/\xc3\xa9", "/%zz", "/'\"<>", "?http://b/",
	}
	plain = []string{
		"Accept: */*", "User-Agent: desync", "X-Empty:", "X-Space:   a b  ", "X-Tab:\ta\t", "Cookie: a=b", "X-High: \xe9", "X-Colon: a:b: c",
		"Connection: keep-alive", "TE: trailers", "Via: 1.1 x", "X-Forwarded-For: 10.0.0.1", "Content-Type: text/plain", "Range: bytes=0-1",
		"X_Under: 1", "Max-Forwards: 0",
	}
	// header lines that somebody reads differently from somebody else, whole with how they end
	odd = []string{
		// two framings, and one said strangely
		"Content-Length: 5\r\n", "Content-Length: 0\r\n", "Content-Length: 60\r\n", "Content-Length: +5\r\n", "Content-Length: -5\r\n",
		"Content-Length: 5, 5\r\n", "Content-Length: 5,6\r\n", "Content-Length: 005\r\n", "Content-Length: 0x5\r\n", "Content-Length:\r\n",
		"Content-Length: 5 \r\n", "Content-Length: 5\t\r\n", "Content-Length: 5;\r\n", "Content-Length: 5 6\r\n", "Content-Length : 5\r\n",
		"Content-Length\r\n", "Content-Length: 18446744073709551621\r\n", "Content-Length: 9223372036854775813\r\n", "Content_Length: 5\r\n",
		"Content-Length: 5\n", "Content-Length:\x0b5\r\n", "Content-Length: \x005\r\n", "CONTENT-LENGTH:5\r\n", "\rContent-Length: 5\r\n",
		"Content-Length: 5\r\n 6\r\n", "Content-Length: 1_0\r\n", "Content-Length: \xd9\xa5\r\n",
		"Transfer-Encoding: chunked\r\n", "Transfer-Encoding: Chunked\r\n", "transfer-encoding:chunked\r\n", "Transfer-Encoding: chunked \r\n",
		"Transfer-Encoding: xchunked\r\n", "Transfer-Encoding: identity\r\n", "Transfer-Encoding: identity, chunked\r\n",
		"Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding: chunked, gzip\r\n", "Transfer-Encoding: chunked, chunked\r\n",
		"Transfer-Encoding: chunked;q=1\r\n", "Transfer-Encoding: \"chunked\"\r\n", "Transfer-Encoding: chunked\x00\r\n",
		"Transfer-Encoding:\x0bchunked\r\n", "Transfer-Encoding:\tchunked\r\n", "Transfer-Encoding:\x0cchunked\r\n", "Transfer-Encoding : chunked\r\n",
		"Transfer-Encoding\t: chunked\r\n", " Transfer-Encoding: chunked\r\n", "Transfer-Encoding:\r\n chunked\r\n", "Transfer-Encoding: chunked\n",
		"X: x\nTransfer-Encoding: chunked\r\n", "X: x\rTransfer-Encoding: chunked\r\n", "Transfer_Encoding: chunked\r\n", "Transfer-Encoding: \r\n",
		"Transfer-Encoding: ,chunked\r\n", "Transfer-Encoding: chunked,\r\n", "Transfer-Encoding: chunk\r\n", "Transfer-Encoding; chunked\r\n",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "Content-Encoding: chunked\r\n",
		// whose request it is
		"Host: b\r\n", "Host: a\r\n", "Host: a, b\r\n", "Host : b\r\n", "host: A\r\n", "Host: a:80\r\n", "Host: u@a\r\n", "Host: a/b\r\n", "Host:\r\n",
		"X-Forwarded-Host: b\r\n", "Host: [::1]\r\n", "Host: a b\r\n", "Host: a#b\r\n",
		// one hop only
		"Connection: close\r\n", "Connection: Host\r\n", "Connection: Content-Length\r\n", "Connection: Transfer-Encoding\r\n",
		"Connection: X-Nonce\r\n", "Connection: close, X-Hop\r\n", "Connection: ,,\r\n", "Proxy-Connection: close\r\n", "Keep-Alive: timeout=1\r\n",
		"Connection: upgrade\r\nUpgrade: websocket\r\n", "Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
		"Upgrade: foo\r\n", "Connection: upgrade\r\nUpgrade: foo, websocket\r\n", "Upgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade\r\n",
		"Expect: 100-continue\r\n", "Expect: 100-Continue\r\n", "Expect: 100-continue, x\r\n", "Expect: y\r\n", "Expect:\r\n", "Expect : 100-continue\r\n",
		"Expect: 100-continue\r\nExpect: 100-continue\r\n", "Trailer: Content-Length\r\n", "TE: chunked\r\n",
		// names, values and the ends of lines
		"X: a\r\n b\r\n", "X: a\r\n\tb\r\n", "X: a\n", "X: a\r", "X\x00: a\r\n", "X: a\x00b\r\n", ": a\r\n", "X a\r\n", "X\r\n", "X:\r\r\n", "X: a\r\r\n", "\xffX: a\r\n",
		"X(: a\r\n", "\n", "\r", " \r\n", "X: \x7f\r\n", "X: a\x1b\r\n", "X: \x85\r\n", "GET /s/x HTTP/1.1\r\n", "byrnie-client-id: x\r\n", "Byrnie_Client_Id: x\r\n",
	}
	oddVersions = []string{
		"HTTP/1.0", "HTTP/1.0", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.1 ", "HTTP/1.10", "HTTP/01.1", "HTTP/1", "", "HTTP/1.1\t", "\tHTTP/1.1",
	}
	oddEnds   = []string{"\n", "\r", "\r\r\n", " \r\n", "\x00\r\n"}
	oddTarget = []string{
		"http://a%s", "HTTP://A%s", "http://b%s", "http://a:80%s", "http://u@a%s", "https://a%s", "a%s", "%s#x", "%s x", "%s\tx", "*", "http:/%s", "//a%s", "http://a", "?%s", "",
		"http://a?%s", "%s\x00", "%s\x7f",
	}
	oddSizes = []string{
		"%x;a=b\r\n", "%x ;a\r\n", "%x;a=\"b\"\r\n", "%x;\r\n", "%x \r\n", "0%x\r\n", "0000%x\r\n", "%X\r\n", "0x%x\r\n", "+%x\r\n", "-%x\r\n", " %x\r\n", "%x\n", "%x;\n", "%x;a\nb\r\n",
		"%x;a\rb\r\n", "%x;a\x00\r\n", "%x,\r\n", "%x g\r\n", "%x\r\r\n", "%x_0\r\n", "1000000000000000%x\r\n", "00000000000000000%x\r\n", "ffffffffffffffff%x\r\n", "%x\t;a\r\n", "%x\r", "\r\n%x\r\n",
		"%x;a=\"\r\n",
	}
	oddChunkEnds = []string{"", "\n", "\r", "x\r\n", "\r\n\r\n", "xx", "\r\n\n"}
	trailers     = []string{
		"X-Sum: 1\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Host: b\r\n", "X: a\n", "X : a\r\n", " X: a\r\n", "X\r\n", "GET /s/t HTTP/1.1\r\n", "X: a\r\n b\r\n",
	}
	lastChunks = []string{"0\r\n", "0\r\n", "0\r\n", "00\r\n", "0;a\r\n", "0\n", "0 \r\n", "-0\r\n", "0x0\r\n", ""}
)

// message is a request; two of five have something odd.
func (g *generator) message() string {
	strange := g.in(40)
	end := func() string {
		if strange && g.in(3) {
			return g.one(oddEnds)
		}
		return "\r\n"
	}
	nonce := fmt.Sprintf("s%d-%d", g.stream, g.request)
	target := fmt.Sprintf("/s%d/%d%s", g.stream, g.request, g.one(suffixes))
	g.request++
	version := "HTTP/1.1"
	if strange && g.in(12) {
		target = strings.ReplaceAll(g.one(oddTarget), "%s", target)
	}
	if strange && g.in(12) {
		version = g.one(oddVersions)
	}
	first := g.one(methods) + " " + target + " " + version + end()
	lines := []string{"Host: a" + end(), "X-Nonce: " + nonce + end()}
	if strange && g.in(5) {
		lines = lines[1:]
	}
	for range g.IntN(3) {
		lines = append(lines, g.one(plain)+end())
	}
	payload := g.payload()
	switch g.IntN(3) {
	case 0:
		payload = ""
	case 1:
		length := len(payload)
		if strange && g.in(15) {
			length += g.IntN(9) - 4
		}
		lines = append(lines, fmt.Sprintf("Content-Length: %d%s", max(length, 0), end()))
	case 2:
		lines = append(lines, "Transfer-Encoding: chunked"+end())
		payload = g.chunked(payload, strange)
	}
	for strange && g.in(70) {
		lines = append(lines, g.one(odd))
	}
	g.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	before := ""
	if strange && g.in(4) {
		before = g.one([]string{"\r\n", "\r\n\r\n", "\n", " ", "\x00"})
	}
	return before + first + strings.Join(lines, "") + end() + payload
}

// payload is a body, often one that must not be taken for a request.
func (g *generator) payload() string {
	switch g.IntN(5) {
	case 0:
		return ""
	case 1:
		return "hello"
	case 2:
		return "0\r\n\r\n" + g.inner()
	case 3:
		return strings.Repeat("x", g.IntN(3000))
	default:
		return g.inner()
	}
}

func (g *generator) inner() string {
	g.request++
	return fmt.Sprintf("GET /s%d/x%d HTTP/1.1\r\nHost: a\r\nX-Nonce: s%d-x%d\r\n\r\n", g.stream, g.request, g.stream, g.request)
}

func (g *generator) chunked(payload string, strange bool) string {
	var out strings.Builder
	for payload != "" {
		cut := 1 + g.IntN(len(payload))
		size, end := "%x\r\n", "\r\n"
		if strange && g.in(15) {
			size = g.one(oddSizes)
		}
		if strange && g.in(8) {
			end = g.one(oddChunkEnds)
		}
		said := cut
		if strange && g.in(5) {
			said += g.IntN(5) - 2
		}
		out.WriteString(strings.NewReplacer("%x", fmt.Sprintf("%x", said), "%X", fmt.Sprintf("%X", said)).Replace(size))
		out.WriteString(payload[:cut] + end)
		payload = payload[cut:]
	}
	last := "0\r\n"
	if strange && g.in(15) {
		last = g.one(lastChunks)
	}
	out.WriteString(last)
	if g.in(10) {
		out.WriteString("X-Sum: 1\r\n")
	}
	for strange && g.in(10) {
		out.WriteString(g.one(trailers))
	}
	out.WriteString("\r\n")
	return out.String()
}

// mutate changes bytes without a thought for what they are.
func (g *generator) mutate(stream []byte) []byte {
	if len(stream) < 2 {
		return stream
	}
	at := g.IntN(len(stream))
	to := min(len(stream), at+1+g.IntN(20))
	const bytesOfInterest = "\r\n\t\x00 :;,/0159afx\x0b\x7f\xff_-+HTP"
	switch g.IntN(7) {
	case 0:
		stream[at] ^= 1 << g.IntN(8)
	case 1:
		stream[at] = bytesOfInterest[g.IntN(len(bytesOfInterest))]
	case 2:
		stream = append(stream[:at:at], stream[to:]...)
	case 3:
		stream = append(stream[:to:to], stream[at:]...)
	case 4:
		stream = append(append(stream[:at:at], bytesOfInterest[g.IntN(len(bytesOfInterest))]), stream[at:]...)
	case 5:
		stream = append(append(stream[:at:at], g.one(odd)...), stream[at:]...)
	case 6:
		from := g.IntN(len(stream))
		stream = append(append(stream[:at:at], stream[from:min(len(stream), from+40)]...), stream[at:]...)
	}
	return stream
}
