// Command h2spec runs h2spec's conformance tests of HTTP/2 servers against the proxy, in front of a server of Go's.
package main

import (
	"encoding/xml"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/summerwind/h2spec"
	"github.com/summerwind/h2spec/config"

	"byrnie.dev/conformance/rig"
)

// exceptions are tests whose failure is right, and why.
var exceptions = map[string]string{
	"http2/3.5: Sends invalid connection preface": "the port speaks HTTP/1.1 too: what is no preface is a bad request of HTTP/1.1, is answered so, and the connection ends",
}

func main() {
	proxy := flag.String("proxy", "byrnie-proxy", "the proxy's binary")
	direct := flag.Bool("direct", false, "leave the proxy out")
	flag.Parse()
	if err := run(*proxy, *direct); err != nil {
		fmt.Fprintln(os.Stderr, "h2spec:", err)
		os.Exit(1)
	}
}

func run(proxy string, direct bool) error {
	r, err := rig.New()
	if err != nil {
		return err
	}
	defer r.Close()
	address, err := serve()
	if err != nil {
		return err
	}
	if !direct {
		if address, err = before(r, proxy, address); err != nil {
			return err
		}
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	report := filepath.Join(r.Directory, "report.xml")
	if _, err := h2spec.Run(&config.Config{
		Host: host, Port: number, Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 4000, Strict: true, JUnitReport: report,
	}); err != nil {
		return err
	}
	return judge(report)
}

// before starts a proxy in front of a server.
func before(r *rig.Rig, proxy, server string) (string, error) {
	if err := rig.Certificates(r.Directory, "web"); err != nil {
		return "", err
	}
	listen := rig.Free()
	_, err := r.Proxy(proxy, "web", fmt.Sprintf(`listeners: [{direction: Outbound, listen: %q, service: "shop/api:80"}]
services: [{name: "shop/api:80", protocol: HTTP2, endpoints: [{address: %q}]}]
`, listen, server), nil)
	return listen, err
}

// serve is an application that reads what it gets and answers with some bytes.
func serve() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintln(w, "hello from the application")
	})}
	go func() { _ = server.Serve(listener) }()
	return listener.Addr().String(), nil
}

// judge fails on every failure that is no exception, and on exceptions that are none any more.
func judge(report string) error {
	text, err := os.ReadFile(report)
	if err != nil {
		return err
	}
	var suites struct {
		Suites []struct {
			Cases []struct {
				Package string `xml:"package,attr"`
				Name    string `xml:"classname,attr"`
				Failure *struct {
					Text string `xml:",innerxml"`
				} `xml:"failure"`
				Error *struct {
					Text string `xml:",innerxml"`
				} `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &suites); err != nil {
		return err
	}
	passed, excused, skipped, failed := 0, 0, 0, 0
	for _, suite := range suites.Suites {
		for _, test := range suite.Cases {
			name := test.Package + ": " + test.Name
			why, excepted := exceptions[name]
			switch bad := test.Failure != nil || test.Error != nil; {
			case bad && excepted:
				excused++
				fmt.Printf("exception: %s (%s)\n", name, why)
			case bad:
				failed++
				fmt.Printf("failed: %s\n", name)
			case excepted:
				failed++
				fmt.Printf("no exception any more: %s\n", name)
			case test.Skipped != nil:
				skipped++
				fmt.Printf("skipped by h2spec: %s\n", name)
			default:
				passed++
			}
		}
	}
	fmt.Printf("%d passed, %d excepted, %d skipped, %d failed\n", passed, excused, skipped, failed)
	if failed > 0 || passed < 100 {
		return fmt.Errorf("not conformant")
	}
	return nil
}
