package udp

import (
	"net"
	"testing"
)

func TestWhoListensAnswers(t *testing.T) {
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.LocalAddr().String()
	free.Close()
	if err := Main(t.Context(), []string{"ask", address}); err == nil {
		t.Error("nobody answered, and it was taken for an answer")
	}
	go Main(t.Context(), []string{"listen", address})
	if err := Main(t.Context(), []string{"ask", address}); err != nil {
		t.Error(err)
	}
}
