package secrets

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
)

// Redacted is what is shown in place of content.
const Redacted = "[redacted]"

// Bytes is content that nobody may see: however it is printed, logged or encoded, it
// shows as Redacted. Only Reveal gives it, to what is sent to proxies.
type Bytes struct {
	// A function, because fmt looks into fields that are not exported without asking
	// Format, and through pointers too; of a function it knows the address.
	reveal func() []byte
}

// Hide makes Bytes of b, which must not be changed any more.
func Hide(b []byte) Bytes { return Bytes{func() []byte { return b }} }

// Reveal gives the content. It is for resources of proxies, and for checks that tell
// nothing of it; the slice must not be changed.
func (b Bytes) Reveal() []byte {
	if b.reveal == nil {
		return nil
	}
	return b.reveal()
}

// any reports whether there is content, be it empty.
func (b Bytes) any() bool { return b.reveal != nil }

// Equal reports whether two contents are the same; it is quick where they are one.
func (b Bytes) Equal(o Bytes) bool {
	x, y := b.Reveal(), o.Reveal()
	return len(x) == len(y) && (len(x) == 0 || &x[0] == &y[0] || bytes.Equal(x, y))
}

// Sum tells contents apart.
func (b Bytes) Sum() [sha256.Size]byte { return sha256.Sum256(b.Reveal()) }

// Format shows Redacted for every verb.
func (Bytes) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Redacted) }

// String shows Redacted.
func (Bytes) String() string { return Redacted }

// LogValue shows Redacted.
func (Bytes) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText shows Redacted, also as JSON and YAML.
func (Bytes) MarshalText() ([]byte, error) { return []byte(Redacted), nil }
