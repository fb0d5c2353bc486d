// Package harness is what the end-to-end tests stand on: a cluster, namespaces of their own, apps in
// them, calls from inside pods. It knows Kubernetes and the test apps; what the mesh promises, the tests
// know.
package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// SystemNamespace is the control plane's.
const SystemNamespace = "byrnie-system"

// Cluster is the Kubernetes under test.
type Cluster struct {
	Config   *rest.Config
	Kube     kubernetes.Interface
	Dynamic  dynamic.Interface
	Mapper   meta.ResettableRESTMapper
	Settings Settings
}

// Settings come from the environment; the Makefile sets them.
type Settings struct {
	Kubeconfig  string // KUBECONFIG
	ClusterBin  string // BYRNIE_CLUSTER_BIN: byrnie-cluster, which is helm and kubectl too
	ClusterName string // BYRNIE_CLUSTER_NAME; empty on somebody else's cluster
	Registry    string // BYRNIE_REGISTRY
	Version     string // BYRNIE_VERSION: of all images
	Build       string // BYRNIE_BUILD: where what was built is
	Chart       string // BYRNIE_CHART
	Previous    string // BYRNIE_PREVIOUS_CHART: of the release before, whose images the cluster has; or nothing
}

// ReadSettings reads them.
func ReadSettings() (Settings, error) {
	chart, err := filepath.Abs(envOr("BYRNIE_CHART", "../../deploy/chart"))
	if err != nil {
		return Settings{}, err
	}
	settings := Settings{
		Kubeconfig: os.Getenv("KUBECONFIG"), ClusterBin: os.Getenv("BYRNIE_CLUSTER_BIN"), ClusterName: os.Getenv("BYRNIE_CLUSTER_NAME"),
		Registry: envOr("BYRNIE_REGISTRY", "docker.io"), Version: os.Getenv("BYRNIE_VERSION"), Build: os.Getenv("BYRNIE_BUILD"), Chart: chart,
		Previous: os.Getenv("BYRNIE_PREVIOUS_CHART"),
	}
	if settings.Kubeconfig == "" {
		return settings, errors.New("KUBECONFIG is not set: run these tests by `make test-e2e`, which starts a cluster")
	}
	if settings.Version == "" {
		return settings, errors.New("BYRNIE_VERSION is not set: it names the images")
	}
	return settings, nil
}

// Image is the full name of one of our images.
func (s Settings) Image(name string) string {
	return fmt.Sprintf("%s/byrnie/%s:%s", s.Registry, name, s.Version)
}

// Connect reaches the cluster.
func Connect(ctx context.Context) (*Cluster, error) {
	settings, err := ReadSettings()
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", settings.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.WarningHandler = rest.NoWarnings{}
	config.QPS, config.Burst = 200, 400 // the default would wait on itself while tests run in parallel
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	dynamicClient, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	discovered := memory.NewMemCacheClient(discovery.NewDiscoveryClient(kube.Discovery().RESTClient()))
	cluster := &Cluster{
		Config: config, Kube: kube, Dynamic: dynamicClient, Settings: settings,
		Mapper: restmapper.NewDeferredDiscoveryRESTMapper(discovered),
	}
	if _, err := kube.Discovery().ServerVersion(); err != nil {
		return nil, fmt.Errorf("reach the cluster of %s: %w", settings.Kubeconfig, err)
	}
	return cluster, ctx.Err()
}

func envOr(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}
