package shop

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"byrnie.dev/apps/internal/exit"
)

// showMain is the command `shop show URL`: who called whom, as which identity, and how often.
func showMain(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("shop show", flag.ContinueOnError)
	count := flags.Int("count", 1, "calls to make, at most 10000; equal trails are printed once")
	method := flags.String("method", http.MethodGet, "GET lists the items (/), POST buys (/buy)")
	if err := flags.Parse(args); err != nil {
		return exit.With(exit.Usage, err)
	}
	if flags.NArg() != 1 || *count < 1 || *count > 10_000 {
		return exit.With(exit.Usage, fmt.Errorf("usage: shop show [--count N] URL"))
	}
	trails := map[string]int{}
	client := &http.Client{Timeout: 10 * time.Second}
	for range *count {
		trail, err := fetchTrail(ctx, client, *method, flags.Arg(0))
		if err != nil {
			return exit.With(exit.NotReached, err)
		}
		trails[trail]++
	}
	printTrails(os.Stdout, trails)
	return nil
}

func fetchTrail(ctx context.Context, client *http.Client, method, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return "", err
	}
	var page Page
	if err := json.Unmarshal(body, &page); err != nil || len(page.Trail) == 0 {
		return fmt.Sprintf("%d %s", response.StatusCode, strings.TrimSpace(string(body))), nil
	}
	return page.TrailText(), nil
}

// TrailText is the trail as one line for each call: the caller's verified identity, who answered, what.
func (p Page) TrailText() string {
	var text strings.Builder
	for depth, step := range p.Trail {
		caller := step.ClientID
		if caller == "" {
			caller = "(no identity)"
		}
		if step.Pod == "" {
			caller = "(told by the caller)"
		}
		fmt.Fprintf(&text, "%s%s -> %s", strings.Repeat("  ", depth), caller, step.Service)
		if step.Version != "" {
			fmt.Fprintf(&text, " %s", step.Version)
		}
		fmt.Fprintf(&text, "  %s  %d", step.Call, step.Status)
		if step.Reason != "" {
			fmt.Fprintf(&text, "  (%s)", step.Reason)
		}
		text.WriteByte('\n')
	}
	return text.String()
}

func printTrails(out io.Writer, trails map[string]int) {
	order := slices.SortedFunc(maps.Keys(trails), func(a, b string) int { return trails[b] - trails[a] })
	for _, trail := range order {
		fmt.Fprintf(out, "%d x\n%s", trails[trail], trail)
	}
}
