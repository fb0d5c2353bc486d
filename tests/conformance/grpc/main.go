// Command grpc runs the cases of gRPC's interoperability tests through two proxies with mutual TLS between them.
// Client and server are grpc-go's own programs.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"byrnie.dev/conformance/rig"
)

// cases are those of the specification that need nobody's credentials, and no server that says its name.
var cases = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
	"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response", "status_code_and_message",
	"special_status_message", "custom_metadata", "unimplemented_method", "unimplemented_service",
	"rpc_soak", "channel_soak",
}

func main() {
	proxy := flag.String("proxy", "byrnie-proxy", "the proxy's binary")
	programs := flag.String("programs", ".", "where grpc-go's client and server are")
	flag.Parse()
	if err := run(*proxy, *programs); err != nil {
		fmt.Fprintln(os.Stderr, "grpc:", err)
		os.Exit(1)
	}
}

func run(proxy, programs string) error {
	r, err := rig.New()
	if err != nil {
		return err
	}
	defer r.Close()
	address, err := chain(r, proxy, filepath.Join(programs, "server"))
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	failed := 0
	for _, name := range cases {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		begin := time.Now()
		client := exec.CommandContext(ctx, filepath.Join(programs, "client"), "-server_host", host, "-server_port", port, "-test_case", name)
		words, err := client.CombinedOutput()
		cancel()
		verdict := "ok"
		if err != nil {
			verdict = fmt.Sprintf("failed: %v\n%s", err, words)
			failed++
		}
		fmt.Printf("%-28s %6d ms  %s\n", name, time.Since(begin).Milliseconds(), verdict)
	}
	fmt.Printf("%d of %d cases passed through two proxies\n", len(cases)-failed, len(cases))
	if failed > 0 {
		return fmt.Errorf("%d cases failed", failed)
	}
	return nil
}

// chain starts the server and a proxy on either side, and returns where a client calls.
func chain(r *rig.Rig, proxy, server string) (string, error) {
	if err := rig.Certificates(r.Directory, "web", "api"); err != nil {
		return "", err
	}
	application, inbound, outbound := rig.Free(), rig.Free(), rig.Free()
	_, port, err := net.SplitHostPort(application)
	if err != nil {
		return "", err
	}
	if err := r.Start(nil, server, "-port", port); err != nil {
		return "", err
	}
	if err := r.Await("the server", application); err != nil {
		return "", err
	}
	api := fmt.Sprintf(`listeners: [{direction: Inbound, listen: %q, application: %q}]
inbound: {mtls: {mode: Strict}, protocols: [{port: %s, protocol: GRPC}]}
policies:
- {name: shop/api, ports: [%[3]s], rules: [{sources: [{serviceAccount: {namespace: shop, name: web}}]}]}
`, inbound, application, port)
	if _, err := r.Proxy(proxy, "api", api, nil); err != nil {
		return "", err
	}
	web := fmt.Sprintf(`listeners: [{direction: Outbound, listen: %q, service: "shop/api:80"}]
services:
- {name: "shop/api:80", protocol: GRPC, endpoints: [{address: %q, identity: %q}]}
`, outbound, inbound, rig.ID("api"))
	_, err = r.Proxy(proxy, "web", web, nil)
	return outbound, err
}
