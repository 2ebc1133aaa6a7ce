package translate

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
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

// appendField appends a message as a field of another one, whose parts are encoded
// one by one: each of them once, however many of the others change.
func appendField(b []byte, number protowire.Number, m proto.Message) ([]byte, error) {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(deterministic.Size(m)))
	sized := deterministic
	sized.UseCachedSize = true
	b, err := sized.MarshalAppend(b, m)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return b, nil
}

// appendNested appends a field that holds a message, which content appends.
func appendNested(b []byte, number protowire.Number, content func([]byte) []byte) []byte {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	begin := len(b)
	b = content(append(b, 0)) // most lengths take one byte
	length := len(b) - begin - 1
	if size := protowire.SizeVarint(uint64(length)); size > 1 {
		b = slices.Insert(b, begin, make([]byte, size-1)...)
	}
	protowire.AppendVarint(b[:begin], uint64(length))
	return b
}

// appendText appends a field that holds a text.
func appendText(b []byte, number protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), text)
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
