package shop

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"byrnie.dev/apps/internal/whoami"
)

// Page is every answer of the shop.
type Page struct {
	Items   []Item         `json:"items,omitempty"`
	Prices  map[string]int `json:"prices,omitempty"` // in cents
	Receipt string         `json:"receipt,omitempty"`
	Error   string         `json:"error,omitempty"`
	Trail   []Step         `json:"trail"`
}

// Item is a thing for sale.
type Item struct {
	Name  string `json:"name"`
	Cents int    `json:"cents,omitempty"`
}

// Step is one call of the chain, told by the service that was called, or, where the mesh answered in
// its place, by the caller; then there is a reason and no pod.
type Step struct {
	whoami.Identity
	Call     string `json:"call"`
	ClientID string `json:"clientId,omitempty"` // the verified caller
	Status   int    `json:"status"`
	Reason   string `json:"reason,omitempty"`
}

var prices = map[string]int{"byrnie": 19_900, "helm": 8_900, "gauntlets": 5_400, "spear": 3_100}

// stock is what each version of the catalog sells: v2 has one thing more, so that a split can be seen.
func stock(version string) []string {
	if version == "v2" {
		return []string{"byrnie", "helm", "gauntlets", "spear"}
	}
	return []string{"byrnie", "helm", "gauntlets"}
}

type service struct {
	id     whoami.Identity
	client *http.Client
}

// own answers without asking anybody.
func (s *service) own(page Page) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, http.StatusOK, page) }
}

// pass answers what an upstream answers.
func (s *service) pass(upstream, method, url string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		page, ok := s.ask(r.Context(), upstream, method, url)
		s.answer(w, r, statusOf(ok), page)
	}
}

// items lists the stock with the prices that payments quotes.
func (s *service) items(payments string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		page, ok := s.ask(r.Context(), "payments", http.MethodGet, payments+"/quote")
		for _, name := range stock(s.id.Version) {
			page.Items = append(page.Items, Item{Name: name, Cents: page.Prices[name]})
		}
		page.Prices = nil
		s.answer(w, r, statusOf(ok), page)
	}
}

// answer puts this service at the head of the trail and writes the page.
func (s *service) answer(w http.ResponseWriter, r *http.Request, status int, page Page) {
	self := Step{
		Identity: s.id, Call: r.Method + " " + r.URL.Path,
		ClientID: r.Header.Get(whoami.ClientIDHeader), Status: status,
	}
	page.Trail = append([]Step{self}, page.Trail...)
	s.id.Sign(w.Header(), r.Header)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.Encode(page)
}

// ask calls an upstream. A failure is part of the page: its own trail if it is a service of ours that
// failed, else a step that says who was called and what came instead.
func (s *service) ask(ctx context.Context, upstream, method, url string) (Page, bool) {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return Page{Error: err.Error()}, false
	}
	step := Step{Identity: whoami.Identity{Service: upstream}, Call: method + " " + request.URL.Path}
	response, err := s.client.Do(request)
	if err != nil {
		step.Reason = err.Error()
		return Page{Error: upstream + " was not reached", Trail: []Step{step}}, false
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		step.Reason = err.Error()
		return Page{Error: upstream + " broke off", Trail: []Step{step}}, false
	}
	var page Page
	if json.Unmarshal(body, &page) == nil && len(page.Trail) > 0 {
		return page, response.StatusCode == http.StatusOK
	}
	step.Status, step.Reason = response.StatusCode, response.Header.Get(whoami.ReasonHeader)
	return Page{Error: fmt.Sprintf("%s answered %d", upstream, response.StatusCode), Trail: []Step{step}}, false
}

func statusOf(ok bool) int {
	if ok {
		return http.StatusOK
	}
	return http.StatusBadGateway
}
