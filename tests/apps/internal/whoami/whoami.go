// Package whoami says which pod, service and version this process is, and names the headers in which
// every app answers it.
package whoami

import (
	"net/http"
	"os"
)

// Headers that every app sets on every answer, so that a load generator can count by pod or version
// without reading bodies, and the header in which a proxy names the verified caller.
const (
	PodHeader      = "Echo-Pod"
	VersionHeader  = "Echo-Version"
	ClientIDHeader = "Byrnie-Client-Id"
	ReasonHeader   = "Byrnie-Reason"
)

// Identity is this process as its answers name it.
type Identity struct {
	Pod     string `json:"pod"`
	Service string `json:"service,omitempty"`
	Version string `json:"version,omitempty"`
}

// Me reads the environment: APP_NAME, APP_VERSION and the host name, which in a pod is the pod's name.
func Me() Identity {
	pod, err := os.Hostname()
	if err != nil {
		pod = "unknown"
	}
	return Identity{Pod: pod, Service: os.Getenv("APP_NAME"), Version: os.Getenv("APP_VERSION")}
}

// Sign puts the identity, and the caller's as it was told to us, on an answer.
func (id Identity) Sign(answer http.Header, request http.Header) {
	answer.Set(PodHeader, id.Pod)
	if id.Version != "" {
		answer.Set(VersionHeader, id.Version)
	}
	if caller := request.Get(ClientIDHeader); caller != "" {
		answer.Set("Echo-Client-Id", caller)
	}
}
