package identity

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// uriPrefix stands before the collection in a certificate's URI.
const uriPrefix = "spiffe://waggle/collection/"

// Identity is what a client has proved about itself.
type Identity struct {
	// Collections are those it may speak for, sorted; at least one.
	Collections []string
	// NotAfter is when the proof ends: the earliest end in its chain of certificates.
	NotAfter time.Time
	// Insecure: nothing has been proved, and the node ID is believed.
	Insecure bool
}

// FromPeer is the identity of the client at the other end of ctx's connection, at the
// time now. Errors are gRPC statuses, made to be read by the proxy's operator.
func FromPeer(ctx context.Context, now time.Time) (Identity, error) {
	p, ok := peer.FromContext(ctx)
	if !ok || p.AuthInfo == nil {
		return Identity{}, status.Error(codes.Unauthenticated,
			"the connection is not encrypted, so that nobody's identity is known; give the proxy a certificate of its collection (waggle bootstrap --tls)")
	}
	tls, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(tls.State.VerifiedChains) == 0 {
		return Identity{}, status.Error(codes.Unauthenticated, "the client has shown no certificate that could be verified")
	}
	id, err := fromChains(tls.State.VerifiedChains)
	if err != nil {
		return Identity{}, err
	}
	if !now.Before(id.NotAfter) {
		return Identity{}, expired(id)
	}
	return id, nil
}

// fromChains reads the leaf that all chains begin with.
func fromChains(chains [][]*x509.Certificate) (Identity, error) {
	var id Identity
	for _, chain := range chains {
		if end := earliestEnd(chain); end.After(id.NotAfter) {
			id.NotAfter = end // one chain that holds is enough
		}
	}
	if len(chains[0]) == 0 {
		return Identity{}, status.Error(codes.Unauthenticated, "the client has shown no certificate that could be verified")
	}
	for _, uri := range uris(chains[0][0]) {
		if name, ok := strings.CutPrefix(uri, uriPrefix); ok && validName(name) {
			id.Collections = append(id.Collections, name)
		}
	}
	if len(id.Collections) == 0 {
		return Identity{}, status.Errorf(codes.PermissionDenied,
			"the client certificate speaks for no collection: it needs the URI %s<name> (waggle ca issue)", uriPrefix)
	}
	slices.Sort(id.Collections)
	id.Collections = slices.Compact(id.Collections)
	return id, nil
}

func earliestEnd(chain []*x509.Certificate) time.Time {
	var end time.Time
	for _, c := range chain {
		if end.IsZero() || c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// Check says whether the identity may use a node ID: the collection that stands before
// its first slash must be one that the certificate names.
func (id Identity) Check(nodeID string) error {
	if id.Insecure {
		return nil
	}
	collection, _, _ := strings.Cut(nodeID, "/")
	if slices.Contains(id.Collections, collection) {
		return nil
	}
	return status.Errorf(codes.PermissionDenied,
		"the client certificate speaks for %s, and the node ID %q names another collection; give this proxy the other certificate or correct its node.id",
		clip(strings.Join(id.Collections, ", ")), clip(nodeID))
}

// Until is ctx until the identity's proof ends. Its cause is then the status to answer.
func (id Identity) Until(ctx context.Context) (context.Context, context.CancelFunc) {
	if id.NotAfter.IsZero() {
		return context.WithCancel(ctx)
	}
	return context.WithDeadlineCause(ctx, id.NotAfter, expired(id))
}

func expired(id Identity) error {
	return status.Errorf(codes.Unauthenticated,
		"the client certificate for %s ended at %s; issue a new one (waggle ca issue), and the proxy will come back by itself",
		clip(strings.Join(id.Collections, ", ")), id.NotAfter.UTC().Format(time.RFC3339))
}

// uris are the URIs of a certificate as they were signed. Go's own list went through a
// parser, after which SPIFFE:// and spiffe:// are the same.
func uris(cert *x509.Certificate) []string {
	var out []string
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(subjectAltName) {
			continue
		}
		var names asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &names); err != nil || len(rest) > 0 || !names.IsCompound {
			return nil
		}
		for rest := names.Bytes; len(rest) > 0; {
			var name asn1.RawValue
			var err error
			if rest, err = asn1.Unmarshal(rest, &name); err != nil {
				return nil
			}
			if name.Class == asn1.ClassContextSpecific && name.Tag == uriTag {
				out = append(out, string(name.Bytes))
			}
		}
	}
	return out
}

// Subject alternative names and their kind uniformResourceIdentifier: RFC 5280, 4.2.1.6.
var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

const uriTag = 6

// validName says whether a collection may be called so, as waggle.yml does:
// [a-z0-9]([a-z0-9._-]*[a-z0-9])?, at most 128 bytes.
func validName(name string) bool {
	if name == "" || len(name) > 128 {
		return false
	}
	for i, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case (c == '.' || c == '_' || c == '-') && i > 0 && i < len(name)-1:
		default:
			return false
		}
	}
	return true
}

// clip shortens text that came from outside, for messages.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

type key struct{}

// FromContext is the identity that a [Guard] found at the beginning of the RPC. Behind
// none it is an error: a server that forgot its guard serves nobody.
func FromContext(ctx context.Context) (Identity, error) {
	id, ok := ctx.Value(key{}).(Identity)
	if !ok {
		return Identity{}, status.Error(codes.Internal, "nobody has checked who is asking; this is a bug in Waggle")
	}
	return id, nil
}

// NewContext is ctx with an identity, as a [Guard] gives it to handlers.
func NewContext(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, key{}, id)
}
