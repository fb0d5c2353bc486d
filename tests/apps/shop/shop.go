// Package shop is the demo's small shop: web asks catalog for the items, catalog asks payments for the
// prices, and an order takes the same way. Every answer carries the trail of the whole chain.
package shop

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"time"

	"byrnie.dev/apps/internal/exit"
	"byrnie.dev/apps/internal/whoami"
)

// Main is the command `shop`.
func Main(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return exit.With(exit.Usage, errors.New("usage: shop web|catalog|payments [--http :8080], or shop show URL"))
	}
	if args[0] == "show" {
		return showMain(ctx, args[1:])
	}
	flags := flag.NewFlagSet("shop "+args[0], flag.ContinueOnError)
	address := flags.String("http", ":8080", "`address` to serve")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	id := whoami.Me()
	if id.Service == "" {
		id.Service = args[0]
	}
	handler, err := Service(args[0], id, Upstreams{
		Catalog:  envOr("CATALOG_URL", "http://catalog:8080"),
		Payments: envOr("PAYMENTS_URL", "http://payments:8080"),
	})
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	server := &http.Server{Addr: *address, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(stopped)
		limit, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		server.Shutdown(limit)
	})()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-stopped
	return nil
}

// Upstreams are the base URLs of the services that others call.
type Upstreams struct{ Catalog, Payments string }

// Service is the handler of one of the three.
func Service(name string, id whoami.Identity, upstreams Upstreams) (http.Handler, error) {
	s := &service{id: id, client: &http.Client{Timeout: 5 * time.Second}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	switch name {
	case "web":
		mux.HandleFunc("GET /{$}", s.pass("catalog", http.MethodGet, upstreams.Catalog+"/items"))
		mux.HandleFunc("POST /buy", s.pass("catalog", http.MethodPost, upstreams.Catalog+"/order"))
	case "catalog":
		mux.HandleFunc("GET /items", s.items(upstreams.Payments))
		mux.HandleFunc("POST /order", s.pass("payments", http.MethodPost, upstreams.Payments+"/charge"))
	case "payments":
		mux.HandleFunc("GET /quote", s.own(Page{Prices: prices}))
		mux.HandleFunc("POST /charge", s.own(Page{Receipt: "charged"}))
	default:
		return nil, fmt.Errorf("service %q is none of web, catalog, payments", name)
	}
	return mux, nil
}

func envOr(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}
