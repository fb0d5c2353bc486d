package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"byrnie.dev/cluster/internal/layout"
)

// api is the little that `up` and `status` ask the API server, as the administrator.
type api struct {
	server string
	client *http.Client
}

func newAPI(c layout.Cluster) (*api, error) {
	authority, err := os.ReadFile(c.Credential("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	admin, err := tls.LoadX509KeyPair(c.Credential("admin.crt"), c.Credential("admin.key"))
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{admin}}}
	return &api{server: c.APIServer(), client: &http.Client{Transport: transport, Timeout: 5 * time.Second}}, nil
}

func (a *api) ready(ctx context.Context) error {
	return a.call(ctx, http.MethodGet, "/readyz", nil, nil)
}

// nodesReady says what is still missing until all nodes can take pods.
func (a *api) nodesReady(ctx context.Context, want int) error {
	var list struct {
		Items []struct {
			Status struct {
				Conditions []struct{ Type, Status, Message string }
			}
		}
	}
	if err := a.call(ctx, http.MethodGet, "/api/v1/nodes", nil, &list); err != nil {
		return err
	}
	ready, reason := 0, ""
	for _, node := range list.Items {
		for _, condition := range node.Status.Conditions {
			if condition.Type != "Ready" {
				continue
			}
			if condition.Status == "True" {
				ready++
			} else {
				reason = ": " + condition.Message
			}
		}
	}
	if ready < want {
		return fmt.Errorf("%d of %d nodes are ready%s", ready, want, reason)
	}
	return nil
}

// setPodRange tells the API what the node's CNI configuration says already.
func (a *api) setPodRange(ctx context.Context, c layout.Cluster, i int) error {
	pods := c.PodRange(i).String()
	patch := map[string]any{"spec": map[string]any{"podCIDR": pods, "podCIDRs": []string{pods}}}
	return a.call(ctx, http.MethodPatch, "/api/v1/nodes/"+c.NodeName(i), patch, nil)
}

// podsPossible is true once pods in the default namespace have their service account.
func (a *api) podsPossible(ctx context.Context) error {
	return a.call(ctx, http.MethodGet, "/api/v1/namespaces/default/serviceaccounts/default", nil, nil)
}

// available is true once a Deployment of the system has a ready pod.
func (a *api) available(ctx context.Context, deployment string) error {
	var d struct {
		Status struct{ AvailableReplicas int }
	}
	if err := a.call(ctx, http.MethodGet, "/apis/apps/v1/namespaces/kube-system/deployments/"+deployment, nil, &d); err != nil {
		return err
	}
	if d.Status.AvailableReplicas == 0 {
		return errors.New("no pod of " + deployment + " is available")
	}
	return nil
}

func (a *api) call(ctx context.Context, method, path string, body, result any) error {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, a.server+path, content)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/strategic-merge-patch+json")
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s", method, path, response.Status)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(answer, result)
}
