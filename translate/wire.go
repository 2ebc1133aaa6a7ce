package translate

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

type anyMessage = anypb.Any

var deterministic = proto.MarshalOptions{Deterministic: true}

// mustAny packs a message that is built from constants and numbers alone: it
// cannot fail for anything that a label says.
func mustAny(m proto.Message) *anypb.Any {
	a := new(anypb.Any)
	if err := anypb.MarshalFrom(a, m, deterministic); err != nil {
		panic(fmt.Sprintf("translate: packing %T: %v", m, err))
	}
	return a
}

// encode gives the wire form of a message. It fails on text that is not UTF-8.
func encode(m proto.Message) ([]byte, error) {
	b, err := deterministic.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return b, nil
}

// validator is what protoc-gen-validate generates: Envoy's own rules for fields.
type validator interface {
	proto.Message
	ValidateAll() error
}

// checked encodes a message that Envoy's own rules accept.
func checked(m validator) ([]byte, error) {
	if err := m.ValidateAll(); err != nil {
		return nil, err
	}
	return encode(m)
}

// mustEncode encodes what was checked before.
func mustEncode(m proto.Message) []byte {
	b, err := encode(m)
	if err != nil {
		panic("translate: " + err.Error())
	}
	return b
}

// valid makes text from outside fit for a string of a protobuf message.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
