// Package issue is the command `issue`: it asks the mesh's operator for a certificate with any token, as a thief would.
package issue

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"byrnie.dev/apps/internal/exit"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// Answer is what the operator said.
type Answer struct {
	Code    string   `json:"code"`            // of gRPC
	Message string   `json:"message"`         // why not
	Names   []string `json:"names,omitempty"` // in the certificate
}

// Main is the command `issue OPERATOR-ADDRESS [WISHED-NAME]` with the token on standard input. It ends with 0 when
// there was an answer, whatever it says.
func Main(ctx context.Context, args []string) error {
	if len(args) == 0 || len(args) > 2 {
		return exit.With(exit.Usage, errors.New("usage: issue OPERATOR-ADDRESS [WISHED-NAME] < TOKEN"))
	}
	token, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	csr, err := request(args[1:])
	if err != nil {
		return err
	}
	answer, err := ask(ctx, args[0], csr, strings.TrimSpace(string(token)))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(answer)
}

// request asks for names, which nobody should listen to.
func request(names []string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	var template x509.CertificateRequest
	for _, name := range names {
		uri, err := url.Parse(name)
		if err != nil {
			return nil, err
		}
		template.URIs = append(template.URIs, uri)
	}
	return x509.CreateCertificateRequest(rand.Reader, &template, key)
}

func ask(ctx context.Context, address string, csr []byte, token string) (answer Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	// A thief does not care who takes the token.
	anybody := credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	connection, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(anybody))
	if err != nil {
		return answer, err
	}
	defer connection.Close()
	message := protowire.AppendTag(nil, 1, protowire.BytesType)
	message = protowire.AppendBytes(message, csr)
	message = protowire.AppendTag(message, 2, protowire.BytesType)
	message = protowire.AppendString(message, token)
	var response []byte
	err = connection.Invoke(ctx, "/byrnie.v1.Identity/Issue", &message, &response, grpc.ForceCodecV2(raw{}))
	said := status.Convert(err)
	answer = Answer{Code: said.Code().String(), Message: said.Message()}
	if err != nil {
		return answer, nil
	}
	number, kind, tag := protowire.ConsumeTag(response)
	if tag < 0 || number != 1 || kind != protowire.BytesType {
		return answer, errors.New("the answer does not begin with a certificate")
	}
	der, length := protowire.ConsumeBytes(response[tag:])
	if length < 0 {
		return answer, errors.New("the answer's certificate is cut")
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return answer, fmt.Errorf("the certificate: %w", err)
	}
	for _, uri := range leaf.URIs {
		answer.Names = append(answer.Names, uri.String())
	}
	return answer, nil
}
