// Package render shows Envoy resources to people and programs: protobuf JSON with
// every field that Envoy marks sensitive taken out. Whatever leaves Waggle for
// anybody but a proxy goes through here.
package render

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/cncf/xds/go/udpa/annotations"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waggle-lb/waggle/translate"
)

// Redacted stands where a sensitive value was.
const Redacted = "[redacted]"

// Shown are the kinds in the order in which they are shown.
var Shown = []translate.Kind{translate.Listener, translate.Routes, translate.Cluster, translate.Endpoints, translate.Secret, translate.Extension}

// KindNamed gives the kind that is called name in commands and the API.
func KindNamed(name string) (translate.Kind, bool) {
	for _, k := range Shown {
		if k.String() == name {
			return k, true
		}
	}
	return 0, false
}

// Tree gives resources as plain JSON values: kind, then name, then the resource.
// Every shown kind has an entry, extensions only where there are any.
func Tree(res translate.Resources, kinds ...translate.Kind) (map[string]map[string]any, error) {
	return redactor{}.tree(res, kinds)
}

// Marked is Tree for states that are compared with each other: behind Redacted stands
// a mark, the same for the same content. It says nothing to those who do not know the
// key, and should be shown to nobody all the same.
func Marked(key []byte, res translate.Resources, kinds ...translate.Kind) (map[string]map[string]any, error) {
	return redactor{key}.tree(res, kinds)
}

// Resource gives one message as plain JSON values, sensitive fields redacted.
func Resource(m proto.Message) (any, error) { return redactor{}.resource(m) }

// redactor takes out what is sensitive. With a key it leaves marks.
type redactor struct{ key []byte }

// text stands in place of content.
func (r redactor) text(content []byte) string {
	if r.key == nil {
		return Redacted
	}
	h := hmac.New(sha256.New, r.key)
	h.Write(content)
	return Redacted + " " + hex.EncodeToString(h.Sum(nil)[:8])
}

func (r redactor) tree(res translate.Resources, kinds []translate.Kind) (map[string]map[string]any, error) {
	tree := map[string]map[string]any{}
	for _, k := range kinds {
		if k == translate.Extension && len(res[k]) == 0 {
			continue
		}
		named := map[string]any{}
		for name, one := range res[k] {
			v, err := r.resource(one.Message)
			if err != nil {
				return nil, fmt.Errorf("show %s %q: %w", k, name, err)
			}
			named[name] = v
		}
		tree[k.String()] = named
	}
	return tree, nil
}

func (r redactor) resource(m proto.Message) (any, error) {
	clean := proto.Clone(m)
	if err := r.redact(clean.ProtoReflect()); err != nil {
		return nil, err
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(clean)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return v, nil
}

// redact replaces what is sensitive in m, also inside packed messages (Any).
func (r redactor) redact(m protoreflect.Message) error {
	if any, ok := m.Interface().(*anypb.Any); ok {
		if any.GetTypeUrl() == "" && len(any.GetValue()) == 0 {
			return nil // "as it is elsewhere"
		}
		inner, err := any.UnmarshalNew()
		if err != nil {
			return fmt.Errorf("unpack %s: %w", any.GetTypeUrl(), err)
		}
		if err := r.redact(inner.ProtoReflect()); err != nil {
			return err
		}
		any.Value, err = proto.MarshalOptions{Deterministic: true}.Marshal(inner)
		return err
	}
	var err error
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch sensitive := proto.GetExtension(f.Options(), annotations.E_Sensitive).(bool); {
		case sensitive:
			r.blank(m, f, v)
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
					err = r.redact(e.Message())
					return err == nil
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				if err = r.redact(v.List().Get(i).Message()); err != nil {
					break
				}
			}
		default:
			err = r.redact(v.Message())
		}
		return err == nil
	})
	return err
}

// blank takes the value of a sensitive field away: text becomes Redacted, of a
// message every text in it does, anything else is cleared.
func (r redactor) blank(m protoreflect.Message, f protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch {
	case f.IsMap():
		m.Clear(f)
	case f.IsList() && f.Message() != nil:
		for i := range v.List().Len() {
			r.blankAll(v.List().Get(i).Message())
		}
	case f.IsList():
		m.Clear(f)
	case f.Message() != nil:
		r.blankAll(v.Message())
	case f.Kind() == protoreflect.StringKind:
		m.Set(f, protoreflect.ValueOfString(r.text([]byte(v.String()))))
	case f.Kind() == protoreflect.BytesKind:
		m.Set(f, protoreflect.ValueOfBytes([]byte(r.text(v.Bytes()))))
	default:
		m.Clear(f)
	}
}

func (r redactor) blankAll(m protoreflect.Message) {
	switch inner := m.Interface().(type) {
	case *anypb.Any:
		inner.Reset()
		return
	case *corev3.DataSource: // bytes would show in base64
		content := inner.GetInlineBytes()
		if content == nil {
			content = []byte(inner.GetInlineString() + inner.GetFilename() + inner.GetEnvironmentVariable())
		}
		inner.Reset()
		inner.Specifier = &corev3.DataSource_InlineString{InlineString: r.text(content)}
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		r.blank(m, f, v)
		return true
	})
}
