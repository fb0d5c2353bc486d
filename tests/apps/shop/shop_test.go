package shop

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"byrnie.dev/apps/internal/whoami"
)

// identified does what a proxy does: it names the caller to the called.
func identified(caller string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set(whoami.ClientIDHeader, caller)
		next.ServeHTTP(w, r)
	})
}

func serve(t *testing.T, name, version, caller string, upstreams Upstreams) string {
	t.Helper()
	handler, err := Service(name, whoami.Identity{Pod: name + "-0", Service: name, Version: version}, upstreams)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(identified(caller, handler))
	t.Cleanup(server.Close)
	return server.URL
}

func trail(t *testing.T, method, url string) string {
	t.Helper()
	text, err := fetchTrail(context.Background(), http.DefaultClient, method, url)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTheTrailTellsTheWholeChain(t *testing.T) {
	payments := serve(t, "payments", "v1", "spiffe://x/catalog", Upstreams{})
	catalog := serve(t, "catalog", "v2", "spiffe://x/web", Upstreams{Payments: payments})
	web := serve(t, "web", "v1", "", Upstreams{Catalog: catalog})

	want := "(no identity) -> web v1  GET /  200\n" +
		"  spiffe://x/web -> catalog v2  GET /items  200\n" +
		"    spiffe://x/catalog -> payments v1  GET /quote  200\n"
	if got := trail(t, "GET", web+"/"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	want = "(no identity) -> web v1  POST /buy  200\n" +
		"  spiffe://x/web -> catalog v2  POST /order  200\n" +
		"    spiffe://x/catalog -> payments v1  POST /charge  200\n"
	if got := trail(t, "POST", web+"/buy"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestTheTrailTellsWhoRefused(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("byrnie-reason", "no-rule-allows")
		http.Error(w, "refused", http.StatusForbidden)
	}))
	defer proxy.Close()
	catalog := serve(t, "catalog", "v1", "spiffe://x/web", Upstreams{Payments: proxy.URL})
	web := serve(t, "web", "v1", "", Upstreams{Catalog: catalog})
	want := "(no identity) -> web v1  GET /  502\n" +
		"  spiffe://x/web -> catalog v1  GET /items  502\n" +
		"    (told by the caller) -> payments  GET /quote  403  (no-rule-allows)\n"
	if got := trail(t, "GET", web+"/"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestVersionsSellDifferentThings(t *testing.T) {
	if one, two := len(stock("v1")), len(stock("v2")); one == two {
		t.Errorf("both sell %d things", one)
	}
	for _, name := range stock("v2") {
		if prices[name] == 0 {
			t.Errorf("%s has no price", name)
		}
	}
}
