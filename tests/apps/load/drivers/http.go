package drivers

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"byrnie.dev/apps/echo"
	"byrnie.dev/apps/load"
)

type httpDriver struct {
	load.CountingDialer
	options load.Options
	targets []string
	opened  atomic.Int64 // sessions
	header  http.Header
	host    string
	body    []byte
}

func newHTTP(options load.Options) (load.Driver, error) {
	targets := strings.Split(options.Target, ",")
	for _, text := range targets {
		target, err := url.Parse(text)
		if err != nil || target.Host == "" {
			return nil, fmt.Errorf("%q is not a URL", text)
		}
		if options.Kind == load.TLS && target.Scheme != "https" {
			return nil, fmt.Errorf("%q does not start with https", text)
		}
	}
	if options.Method == "" {
		options.Method = http.MethodGet
		if options.BodyBytes > 0 {
			options.Method = http.MethodPost
		}
	}
	header, err := headersOf(options.Headers)
	if err != nil {
		return nil, err
	}
	driver := &httpDriver{options: options, targets: targets, header: header, host: header.Get("Host"), body: bytes.Repeat([]byte("x"), int(options.BodyBytes))}
	header.Del("Host")
	return driver, nil
}

// Open gives a client that keeps exactly one connection.
func (d *httpDriver) Open(context.Context) (load.Session, error) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!d.options.H2C)
	protocols.SetUnencryptedHTTP2(d.options.H2C)
	transport := &http.Transport{
		DialContext:        d.DialContext,
		Protocols:          protocols,
		DisableCompression: true,
		DisableKeepAlives:  d.options.Reconnect,
		MaxConnsPerHost:    1,
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // what answered is checked by its name, below
	}
	target := d.targets[int(d.opened.Add(1)-1)%len(d.targets)]
	return &httpSession{driver: d, transport: transport, target: target}, nil
}

type httpSession struct {
	driver    *httpDriver
	transport *http.Transport
	target    string
}

func (s *httpSession) Close() { s.transport.CloseIdleConnections() }

func (s *httpSession) Do(ctx context.Context) load.Outcome {
	driver := s.driver
	var body io.Reader
	if driver.options.BodyBytes > 0 {
		body = bytes.NewReader(driver.body)
	}
	request, err := http.NewRequestWithContext(ctx, driver.options.Method, s.target, body)
	if err != nil {
		return load.Outcome{Err: err}
	}
	request.Header = driver.header
	if limit := time.Duration(driver.options.Deadline); limit > 0 {
		request.Header = driver.header.Clone()
		request.Header.Set(load.DeadlineHeader, strconv.FormatInt(time.Now().Add(limit).UnixNano(), 10))
	}
	request.Host = driver.host
	response, err := s.transport.RoundTrip(request)
	if err != nil {
		return load.Outcome{Err: err}
	}
	_, err = io.Copy(io.Discard, response.Body)
	response.Body.Close()
	if err != nil {
		return load.Outcome{Err: fmt.Errorf("read the body: %w", err)}
	}
	if driver.options.Kind == load.TLS {
		if name := response.TLS.PeerCertificates[0].Subject.CommonName; name != echo.CommonName {
			return load.Outcome{Err: fmt.Errorf("TLS ended at %q, not at the app", name)}
		}
	}
	return load.Outcome{
		Status: strconv.Itoa(response.StatusCode),
		OK:     response.StatusCode >= 200 && response.StatusCode < 300,
		Header: response.Header,
	}
}
