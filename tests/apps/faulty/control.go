package faulty

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"byrnie.dev/apps/load"
)

// Ways of being dead.
const (
	Refuses = "refuses" // connections
	Silent  = "silent"  // takes them and never answers
)

// A Behaviour is what a server does with the requests that come. The zero value answers at once.
type Behaviour struct {
	Delay      load.Duration `json:"delay,omitzero"`
	FailShare  float64       `json:"failShare,omitempty"`  // of the requests, 0 to 1, that fail at once
	FailStatus int           `json:"failStatus,omitempty"` // with this status (gRPC: UNAVAILABLE); default 500

	// Workers, if any, take requests in the order in which they came, one at a time, for the time Service
	// give or take the share Spread. They work for callers that are gone already, unless they are Attentive.
	Workers   int           `json:"workers,omitempty"`
	Service   load.Duration `json:"service,omitzero"`
	Spread    float64       `json:"spread,omitempty"`
	Attentive bool          `json:"attentive,omitempty"`

	Dead string `json:"dead,omitempty"`

	// Relay is the URL that is asked for each request, and so often again when it fails; its status is ours.
	Relay    string `json:"relay,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
}

func (b *Behaviour) check() error {
	if b.FailStatus == 0 {
		b.FailStatus = http.StatusInternalServerError
	}
	relay, err := url.Parse(b.Relay)
	switch {
	case b.FailShare < 0 || b.FailShare > 1:
		return fmt.Errorf("failShare %v is not 0 to 1", b.FailShare)
	case b.FailStatus < 400 || b.FailStatus > 599:
		return fmt.Errorf("failStatus %d is not 400 to 599", b.FailStatus)
	case b.Workers < 0 || (b.Workers > 0) != (b.Service > 0):
		return errors.New("workers need a service time, and a service time workers")
	case b.Spread < 0 || b.Spread > 1:
		return fmt.Errorf("spread %v is not 0 to 1", b.Spread)
	case time.Duration(b.Delay) > time.Minute || time.Duration(b.Service) > time.Minute:
		return errors.New("delays and service times are at most 1m")
	case b.Dead != "" && b.Dead != Refuses && b.Dead != Silent:
		return fmt.Errorf("dead is %s or %s, not %q", Refuses, Silent, b.Dead)
	case b.Relay != "" && (err != nil || relay.Host == ""):
		return fmt.Errorf("relay %q is no URL", b.Relay)
	case b.Attempts < 0 || b.Attempts > 10:
		return fmt.Errorf("%d attempts are not 0 to 10", b.Attempts)
	}
	return nil
}

// Fleet is all servers of the process by name, and their control endpoint: PUT / takes behaviours by
// name, "*" for all; GET / tells the counts by name; DELETE / sets them to zero.
type Fleet map[string]*server

func (f Fleet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPut:
		if err := f.change(w, r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	case http.MethodGet:
		counts := map[string]Counts{}
		for name, server := range f {
			counts[name] = server.count.read()
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(counts)
	case http.MethodDelete:
		for _, server := range f {
			server.count.reset()
		}
	default:
		http.Error(w, "there are PUT, GET and DELETE", http.StatusMethodNotAllowed)
	}
}

func (f Fleet) change(w http.ResponseWriter, r *http.Request) error {
	wishes := map[string]*Behaviour{}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&wishes); err != nil {
		return err
	}
	for name, behaviour := range wishes {
		if behaviour == nil || (name != "*" && f[name] == nil) {
			return fmt.Errorf("%q is no server with a behaviour", name)
		}
		if err := behaviour.check(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if all := wishes["*"]; all != nil {
		for name := range f {
			if wishes[name] == nil {
				wishes[name] = all
			}
		}
		delete(wishes, "*")
	}
	for name, behaviour := range wishes {
		if err := f[name].become(behaviour); err != nil {
			return err
		}
	}
	return nil
}
