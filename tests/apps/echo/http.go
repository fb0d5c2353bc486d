package echo

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"byrnie.dev/apps/internal/whoami"
	"github.com/gorilla/websocket"
)

// Answer is what the server says about a request, as JSON.
type Answer struct {
	whoami.Identity
	Proto     string              `json:"proto"`
	Method    string              `json:"method"`
	Path      string              `json:"path"`            // as it came, not decoded
	Query     string              `json:"query,omitempty"` // as it came, not decoded
	Host      string              `json:"host"`
	Headers   map[string][]string `json:"headers"`
	Trailers  map[string][]string `json:"trailers,omitempty"`
	ClientID  string              `json:"clientId,omitempty"`
	BodyBytes int64               `json:"bodyBytes"`
}

// maxAnswerBytes bounds ?bytes=N.
const maxAnswerBytes = 1 << 30

// Handler answers every path; /healthz, /sink and /ws are special.
func Handler(id whoami.Identity) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id.Sign(w.Header(), r.Header)
		switch r.URL.Path {
		case "/healthz":
			fmt.Fprintln(w, "ok")
		case "/sink":
			sink(w, r)
		case "/ws":
			echoWebSocket(w, r)
		default:
			echoHTTP(w, r, id)
		}
	})
}

// wishes are what the query asks the answer to be.
type wishes struct {
	status   int
	delay    time.Duration
	bytes    int64 // -1: the JSON answer
	trailers bool
}

func wishesOf(r *http.Request) (wishes, error) {
	want := wishes{status: http.StatusOK, bytes: -1}
	query := r.URL.Query()
	var err error
	if value := query.Get("status"); value != "" {
		if want.status, err = strconv.Atoi(value); err != nil || want.status < 200 || want.status > 599 {
			return want, fmt.Errorf("status %q is not one of 200..599", value)
		}
	}
	if value := query.Get("delay"); value != "" {
		if want.delay, err = time.ParseDuration(value); err != nil || want.delay > time.Minute {
			return want, fmt.Errorf("delay %q is not a duration of at most 1m", value)
		}
	}
	if value := query.Get("bytes"); value != "" {
		if want.bytes, err = strconv.ParseInt(value, 10, 64); err != nil || want.bytes < 0 || want.bytes > maxAnswerBytes {
			return want, fmt.Errorf("bytes %q is not a number up to %d", value, maxAnswerBytes)
		}
	}
	want.trailers = query.Get("trailers") == "1"
	return want, nil
}

func echoHTTP(w http.ResponseWriter, r *http.Request, id whoami.Identity) {
	want, err := wishesOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	received, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, "read the body: "+err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(want.delay):
	case <-r.Context().Done():
		return
	}
	if want.trailers {
		w.Header().Set("Trailer", "Echo-Trailer")
		defer w.Header().Set("Echo-Trailer", "after the body")
	}
	if want.bytes >= 0 {
		writeBytes(w, want)
		return
	}
	path, query, _ := strings.Cut(r.RequestURI, "?")
	body, err := json.Marshal(Answer{
		Identity: id, Proto: r.Proto, Method: r.Method, Path: path, Query: query, Host: r.Host,
		Headers: r.Header, Trailers: r.Trailer, ClientID: r.Header.Get(whoami.ClientIDHeader), BodyBytes: received,
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(want.status)
	w.Write(append(body, '\n'))
}

func writeBytes(w http.ResponseWriter, want wishes) {
	if !want.trailers {
		w.Header().Set("Content-Length", strconv.FormatInt(want.bytes, 10))
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(want.status)
	io.CopyN(w, letters{}, want.bytes)
}

// letters is an endless source of "x".
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func sink(w http.ResponseWriter, r *http.Request) {
	received, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, "read the body: "+err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, "{\"bodyBytes\":%d}\n", received)
}

var upgrader = websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}

func echoWebSocket(w http.ResponseWriter, r *http.Request) {
	conn, err := upgrader.Upgrade(w, r, http.Header{
		whoami.PodHeader:     w.Header()[whoami.PodHeader],
		whoami.VersionHeader: w.Header()[whoami.VersionHeader],
		"Echo-Client-Id":     w.Header()["Echo-Client-Id"],
	})
	if err != nil {
		return // the upgrader has answered
	}
	defer conn.Close()
	for {
		kind, message, err := conn.ReadMessage()
		if err != nil {
			return
		}
		if err := conn.WriteMessage(kind, message); err != nil {
			return
		}
	}
}
