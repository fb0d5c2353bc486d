package issue

import (
	"fmt"

	"google.golang.org/grpc/mem"
)

// raw sends and receives messages as the bytes that they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(message any) (mem.BufferSlice, error) {
	bytes, ok := message.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no bytes", message)
	}
	return mem.BufferSlice{mem.SliceBuffer(*bytes)}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, into any) error {
	bytes, ok := into.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is no bytes", into)
	}
	*bytes = data.Materialize()
	return nil
}
