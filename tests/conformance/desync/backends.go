package main

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"byrnie.dev/conformance/rig"
)

// saw is told of everything that a backend saw.
type saw func(backend string, kind kind, one request)

// echo is the header in which a backend says what it read: method, target, host, nonce, length and hash.
const echo = "Echo"

func (one request) words() string {
	hexed := func(text string) string { return hex.EncodeToString([]byte(text)) + "." }
	return fmt.Sprintf("%s %s %s %s %d %s", hexed(one.method), hexed(one.target), hexed(one.host), hexed(one.nonce), one.length, one.hash)
}

func parse(words string) (one request, err error) {
	parts := strings.Split(words, " ")
	if len(parts) != 6 {
		return one, fmt.Errorf("not an echo: %q", words)
	}
	for index, into := range []*string{&one.method, &one.target, &one.host, &one.nonce} {
		text, err := hex.DecodeString(strings.TrimSuffix(parts[index], "."))
		if err != nil {
			return one, err
		}
		*into = string(text)
	}
	one.length, err = strconv.Atoi(parts[4])
	one.hash = parts[5]
	return one, err
}

// backends start a server of that name and return its address.
var backends = map[string]func(*rig.Rig, saw) (string, error){
	"go":      func(_ *rig.Rig, saw saw) (string, error) { return goServer("go", saw) },
	"node":    node,
	"nginx":   nginx,
	"haproxy": haproxy,
	"broken":  broken,
}

// goServer is Go's own, which also stands behind the servers that only forward.
func goServer(name string, saw saw) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	answer := func(w http.ResponseWriter, r *http.Request) {
		hash := md5.New()
		length, err := io.Copy(hash, r.Body)
		one := request{r.Method, r.RequestURI, r.Host, r.Header.Get("X-Nonce"), int(length), sum(hash)}
		if err != nil {
			saw(name, cut, one)
			return
		}
		saw(name, complete, one)
		w.Header().Set(echo, one.words())
		w.Header().Set("Content-Length", "0")
	}
	server := &http.Server{Handler: http.HandlerFunc(answer), DisableGeneralOptionsHandler: true}
	go func() { _ = server.Serve(noticing{listener, func() { saw(name, refused, request{}) }}) }()
	return listener.Addr().String(), nil
}

func sum(hash hash.Hash) string { return hex.EncodeToString(hash.Sum(nil)) }

// noticing tells of the refusals that net/http writes by itself.
type noticing struct {
	net.Listener
	refused func()
}

type noticed struct {
	net.Conn
	refused func()
}

func (l noticing) Accept() (net.Conn, error) {
	connection, err := l.Listener.Accept()
	return &noticed{connection, l.refused}, err
}

func (c *noticed) Write(bytes_ []byte) (int, error) {
	if bytes.HasPrefix(bytes_, []byte("HTTP/1.1 4")) || bytes.HasPrefix(bytes_, []byte("HTTP/1.1 5")) {
		c.refused()
	}
	return c.Conn.Write(bytes_)
}

const nodeScript = `
const crypto = require('crypto'), http = require('http'), port = Number(process.argv[2]);
const hex = text => Buffer.from(text || '', 'latin1').toString('hex') + '.';
const server = http.createServer({requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 0}, (request, response) => {
  const hash = crypto.createHash('md5');
  let length = 0, whole = false;
  request.on('data', data => { hash.update(data); length += data.length; });
  const words = () => [hex(request.method), hex(request.url), hex(request.headers.host), hex(request.headers['x-nonce']), length, hash.digest('hex')].join(' ');
  request.on('end', () => {
    whole = true;
    const seen = words();
    console.log('0 ' + seen);
    // after an upgrade that it did not take, Node 20 leaves a bad request without an answer
    if (request.headers.upgrade) response.setHeader('Connection', 'close');
    response.writeHead(200, {Echo: seen, 'Content-Length': 0});
    response.end();
  });
  request.on('close', () => whole || console.log('1 ' + words()));
});
server.on('clientError', (error, socket) => {
  if (error.code === 'ECONNRESET' || !socket.writable) return socket.destroy();
  if (error.code && error.code.startsWith('HPE')) console.log('2');
  socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n');
});
server.listen(port, '127.0.0.1');
`

func node(r *rig.Rig, saw saw) (string, error) {
	script := filepath.Join(r.Directory, "echo.js")
	if err := os.WriteFile(script, []byte(nodeScript), 0o600); err != nil {
		return "", err
	}
	address := rig.Free()
	_, port, _ := net.SplitHostPort(address)
	lines := each(func(line string) {
		which, words, _ := strings.Cut(line, " ")
		one, _ := parse(words)
		if number, err := strconv.Atoi(which); err == nil {
			saw("node", kind(number), one)
		}
	})
	if err := r.Start(lines, "node", script, port); err != nil {
		return "", err
	}
	return address, r.Await("node", address)
}

const nginxConfiguration = `
daemon off;
master_process off;
pid nginx.pid;
error_log nginx.log crit;
events { worker_connections 4096; }
http {
  map $status $refused { ~^[45] 1; default ""; }
  log_format refusals '$status';
  access_log /dev/stdout refusals if=$refused;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_header_timeout 1h;
  client_body_timeout 1h;
  client_max_body_size 0;
  upstream application { server %s; keepalive 128; keepalive_requests 1000000000; }
  server {
    listen %s;
    location / {
      proxy_pass http://application;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_next_upstream off;
    }
  }
}
`

// nginx forwards to a server of Go's, which says what arrived.
func nginx(r *rig.Rig, saw saw) (string, error) {
	return before("nginx", nginxConfiguration, r, saw, func(path string) []string {
		return []string{"-p", r.Directory, "-e", "nginx.log", "-c", path}
	})
}

const haproxyConfiguration = `
global
  maxconn 8192
  nbthread 1
  log stdout format raw local0
defaults
  mode http
  timeout client 1h
  timeout server 1h
  timeout connect 10s
  timeout http-request 1h
  timeout http-keep-alive 1h
  option dontlognull
  option http-ignore-probes
  log global
  log-format "%%ST"
  http-reuse always
  retries 0
backend application
  server one %s
frontend all
  bind %s
  default_backend application
`

// haproxy likewise.
func haproxy(r *rig.Rig, saw saw) (string, error) {
	return before("haproxy", haproxyConfiguration, r, saw, func(path string) []string { return []string{"-db", "-f", path} })
}

// before starts a server that forwards to a server of Go's.
func before(name, configuration string, r *rig.Rig, saw saw, arguments func(path string) []string) (string, error) {
	behind, err := goServer(name, func(backend string, kind kind, one request) {
		// what it refuses comes back through the one before it, which counts it
		if kind != refused {
			saw(backend, kind, one)
		}
	})
	if err != nil {
		return "", err
	}
	address, path := rig.Free(), filepath.Join(r.Directory, name+".conf")
	if err := os.WriteFile(path, fmt.Appendf(nil, configuration, behind, address), 0o600); err != nil {
		return "", err
	}
	refusals := each(func(line string) {
		// nginx writes 499 when the proxy has gone
		if status, err := strconv.Atoi(line); err == nil && status >= 400 && status != 499 {
			saw(name, refused, request{})
		}
	})
	if err := r.Start(refusals, name, arguments(path)...); err != nil {
		return "", err
	}
	return address, r.Await(name, address)
}

// broken knows no Transfer-Encoding: the chunks of a body are its next requests. Nobody can be safe in front of it.
func broken(_ *rig.Rig, saw saw) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	serve := func(connection net.Conn) {
		defer connection.Close()
		from := bufio.NewReader(connection)
		for {
			one, err := brokenly(from)
			if err != nil {
				return
			}
			saw("broken", complete, one)
			fmt.Fprintf(connection, "HTTP/1.1 200 OK\r\n%s: %s\r\nContent-Length: 0\r\n\r\n", echo, one.words())
		}
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(connection)
		}
	}()
	return listener.Addr().String(), nil
}

func brokenly(from *bufio.Reader) (one request, err error) {
	words := []string{}
	for len(words) != 3 {
		line, err := from.ReadString('\n')
		if err != nil {
			return one, err
		}
		words = strings.Fields(line)
	}
	one.method, one.target = words[0], words[1]
	for {
		line, err := from.ReadString('\n')
		if err != nil {
			return one, err
		}
		name, value, found := strings.Cut(strings.TrimSpace(line), ":")
		switch value = strings.TrimSpace(value); strings.ToLower(name) {
		case "host":
			one.host = value
		case "x-nonce":
			one.nonce = value
		case "content-length":
			one.length, _ = strconv.Atoi(value)
		}
		if !found {
			break
		}
	}
	hash := md5.New()
	_, err = io.CopyN(hash, from, int64(one.length))
	one.hash = sum(hash)
	return one, errors.Join(err)
}

// each hands over whole lines as they are written.
func each(take func(line string)) io.Writer {
	read, write := io.Pipe()
	go func() {
		lines := bufio.NewScanner(read)
		lines.Buffer(make([]byte, 64*1024), 1<<20)
		for lines.Scan() {
			take(lines.Text())
		}
	}()
	return write
}
