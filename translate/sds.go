package translate

import (
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/waggle-lb/waggle/secrets"
)

// Secrets come by SDS. Their names say what they are, because one name can never be
// two things: "cert/…", "ca/…" and "oidc/…". A collection is served those alone that
// its own listeners, clusters and published routes name.

// secretFetchTimeout is how long a proxy waits for a secret at most before it goes on
// without. The control plane answers at once, also that there is none.
const secretFetchTimeout = time.Second

// bySDS is how everything refers to a secret. The bytes of the source are the same
// everywhere: Envoy serves the second of two watches that differ there never.
func bySDS(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: adsSource(durationpb.New(secretFetchTimeout))}
}

// hidden is content in a field that Envoy marks sensitive.
func hidden(b secrets.Bytes) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b.Reveal()}}
}

func sortedRefs(refs []Ref) []Ref {
	slices.SortFunc(refs, func(a, b Ref) int {
		if a.Kind != b.Kind {
			return int(a.Kind) - int(b.Kind)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return slices.Compact(refs)
}

// secretsInUse gives what the collection's resources name, by name.
func (c *collection) secretsInUse() map[string]*tlsv3.Secret {
	in := map[string]*tlsv3.Secret{}
	for _, h := range c.published.values() {
		for _, s := range slices.Concat(h.plain.secrets, h.secure.secrets) {
			in[s.Name] = s
		}
	}
	c.secretsOfChains(in)
	for name := range c.refs {
		if be := c.backends[name]; be != nil && be.secret != nil {
			in[be.secret.Name] = be.secret
		}
	}
	return in
}

// buildSecrets brings the collection's secrets to what its resources name.
func (c *collection) buildSecrets(set func(*Resource), drop func(Kind, string)) {
	in := c.secretsInUse()
	for name, s := range in {
		set(&Resource{Kind: Secret, Name: name, Message: s, Body: mustEncode(s)})
	}
	for name := range c.resources[Secret] {
		if in[name] == nil {
			drop(Secret, name)
		}
	}
}
