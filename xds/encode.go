package xds

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that everything but our frames uses
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-lb/waggle/translate"
)

// entry is one version of one resource, encoded once. It is shared by all streams and,
// but for acked, immutable.
type entry struct {
	name    string
	version string          // 16 hex digits of the SHA-256 of the resource's bytes
	sum     uint64          // what it adds to the version of its table
	eds     bool            // a cluster whose endpoints come by EDS
	secrets []string        // that it refers to
	refs    []translate.Ref // what it needs to be there
	wire    []byte          // field `resources` of a DeltaDiscoveryResponse, tag and length included

	acked bool // by a proxy, some time; guarded by the collection's lock
}

// Field numbers of envoy.service.discovery.v3 and google.protobuf.Any.
const (
	fieldResponseResources = 2
	fieldResourceVersion   = 1
	fieldResourceResource  = 2
	fieldResourceName      = 3
	fieldAnyTypeURL        = 1
	fieldAnyValue          = 2
)

// encode makes the entry of a resource: the only place that marshals and hashes one.
func encode(kind translate.Kind, name string, r *translate.Resource) (*entry, error) {
	body := r.Body
	if body == nil {
		if r.Message == nil {
			return nil, errors.New("it has neither a message nor a body")
		}
		var err error
		if body, err = (proto.MarshalOptions{Deterministic: true}).Marshal(r.Message); err != nil {
			return nil, fmt.Errorf("marshalling it: %w", err)
		}
	}
	digest := sha256.Sum256(body)
	e := &entry{name: name, version: hex.EncodeToString(digest[:8]), eds: r.EDS && kind == translate.Cluster, refs: r.Refs, secrets: secretsOf(r)}
	mark := sha256.Sum256([]byte(e.version + name))
	e.sum = binary.BigEndian.Uint64(mark[:])

	url := kind.TypeURL()
	sizeAny := protowire.SizeTag(fieldAnyTypeURL) + protowire.SizeBytes(len(url)) +
		protowire.SizeTag(fieldAnyValue) + protowire.SizeBytes(len(body))
	sizeResource := protowire.SizeTag(fieldResourceVersion) + protowire.SizeBytes(len(e.version)) +
		protowire.SizeTag(fieldResourceName) + protowire.SizeBytes(len(name)) +
		protowire.SizeTag(fieldResourceResource) + protowire.SizeBytes(sizeAny)
	b := make([]byte, 0, protowire.SizeTag(fieldResponseResources)+protowire.SizeBytes(sizeResource))
	b = protowire.AppendTag(b, fieldResponseResources, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(sizeResource))
	b = protowire.AppendTag(b, fieldResourceVersion, protowire.BytesType)
	b = protowire.AppendString(b, e.version)
	b = protowire.AppendTag(b, fieldResourceName, protowire.BytesType)
	b = protowire.AppendString(b, name)
	b = protowire.AppendTag(b, fieldResourceResource, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(sizeAny))
	b = protowire.AppendTag(b, fieldAnyTypeURL, protowire.BytesType)
	b = protowire.AppendString(b, url)
	b = protowire.AppendTag(b, fieldAnyValue, protowire.BytesType)
	b = protowire.AppendBytes(b, body)
	e.wire = b
	return e, nil
}

// frame is the resources of one response. Frames that many streams send are built
// once, in one piece; the others only point at the entries' own bytes.
type frame struct {
	entries []*entry
	pieces  mem.BufferSlice
}

func newFrame(entries []*entry) *frame {
	f := &frame{entries: entries, pieces: make(mem.BufferSlice, len(entries))}
	for i, e := range entries {
		f.pieces[i] = mem.SliceBuffer(e.wire)
	}
	return f
}

// newSharedFrame is newFrame in one piece, for what many streams are going to send.
func newSharedFrame(entries []*entry) *frame {
	if len(entries) < 2 {
		return newFrame(entries)
	}
	size := 0
	for _, e := range entries {
		size += len(e.wire)
	}
	all := make([]byte, 0, size)
	for _, e := range entries {
		all = append(all, e.wire...)
	}
	return &frame{entries: entries, pieces: mem.BufferSlice{mem.SliceBuffer(all)}}
}

// encodedResponse is a DeltaDiscoveryResponse whose resources are already encoded:
// the head is this stream's own, the rest is shared.
type encodedResponse struct {
	head   []byte
	pieces mem.BufferSlice
}

// codec is gRPC's protobuf codec, which also writes an encodedResponse without
// copying or marshalling what is shared in it.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Marshal is part of encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*encodedResponse)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	out := make(mem.BufferSlice, 0, 1+len(r.pieces))
	return append(append(out, mem.SliceBuffer(r.head)), r.pieces...), nil
}
