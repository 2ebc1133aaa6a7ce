package translate

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
)

// certificate is a pair under the name of its secret.
type certificate struct {
	secret string // "cert/…"
	pair   *secrets.Pair
	// listed is set for those of the collection's directories: they are for every
	// host, and come before those that labels name.
	listed bool
}

// covers reports whether a certificate is good for a host: a wildcard is so for one
// label in its place.
func (c *certificate) covers(host string) bool { return coversName(c.pair.Names, host) }

func coversName(names []string, host string) bool {
	parent := ""
	if _, rest, found := strings.Cut(host, "."); found && !strings.HasPrefix(host, "*") {
		parent = "*." + rest
	}
	return slices.ContainsFunc(names, func(n string) bool { return n == host || n == parent && parent != "" })
}

// under reports whether a certificate is good for some host that a wildcard takes.
func (c *certificate) under(wildcard string) bool {
	return slices.ContainsFunc(c.pair.Names, func(n string) bool { return within(n, wildcard) })
}

// within reports whether a name of a certificate is one that a wildcard host takes.
func within(name, wildcard string) bool {
	return strings.HasSuffix(strings.TrimPrefix(name, "*"), strings.TrimPrefix(wildcard, "*"))
}

// resource is what proxies are served under the certificate's name.
func (c *certificate) resource() *tlsv3.Secret {
	return &tlsv3.Secret{Name: c.secret, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: hidden(c.pair.Chain),
		PrivateKey:       hidden(c.pair.Key),
	}}}
}

// secretName names the resource of an item, and that of the key beside it.
func secretName(sort string, item secrets.Item, more ...secrets.Item) string {
	name := sort + "/" + string(item.Kind) + "/" + valid(item.Name)
	for _, m := range more {
		name += "+" + string(m.Kind) + "/" + valid(m.Name)
	}
	return name
}

// securing is what a route says about TLS between clients and its hosts, with what it
// names. It never says anything about a host that another owner has.
type securing struct {
	// named is set where a label asks for a certificate. Without one that can be used
	// the hosts have none, whatever lies in directories.
	named     bool
	cert      *certificate  // of ssl_cert; nil where there is none
	local     bool          // the development authority issues one for each host
	authority *tlsv3.Secret // of client_ca
	profile
}

// profile is what a connection must be to reach a host. Hosts of one profile share a
// route table.
type profile struct {
	tls13 bool
	ca    string // secret with the authorities of client certificates, "" where none is asked for
}

// strict reports whether anything is asked of a connection but that it is TLS.
func (p profile) strict() bool { return p != profile{} }

// meets reports whether who asks for q gets it, or more, under p.
func (p profile) meets(q profile) bool {
	return (p.tls13 || !q.tls13) && (q.ca == "" || p.ca == q.ca)
}

// table is the name of the profile's route configuration.
func (p profile) table() string {
	name := httpsTable
	if p.tls13 {
		name += "-tls13"
	}
	if p.ca != "" {
		name += "-ca-" + strings.ReplaceAll(strings.TrimPrefix(p.ca, "ca/"), "/", "-")
	}
	return name
}

// secure reads what the labels of a route say about TLS.
func (r *route) secure() {
	l := r.label
	r.tls.profile.tls13 = l.MinVersion == "1.3"
	if l.ClientCA != "" {
		if s, err := r.authorities("client_ca", l.ClientCA); err != nil {
			r.lacks(err, true)
		} else {
			r.tls.profile.ca, r.tls.authority = s.Name, s
		}
	}
	switch {
	case l.Passthrough:
		for _, key := range []string{"ssl_cert", "ssl_key", "tls", "tls_min_version", "client_ca", "hsts"} {
			if _, said := l.Labels[key]; said {
				guard := key == "client_ca" || key == "tls_min_version" && r.tls.tls13
				r.lacks(errorAt(key, "remove it, or ssl_passthrough", "the task itself speaks TLS with clients (ssl_passthrough)"), guard)
			}
		}
	case l.SSLCert != "":
		r.tls.named = true
		if cert, err := r.pair(); err != nil {
			r.lacks(plainStays(err), false)
		} else if cert != nil {
			r.tls.cert = cert
			for _, host := range l.Hosts {
				if !cert.covers(host) && host != "*" {
					r.lacks(plainStays(errorAt("ssl_cert", "issue it for the host too, or name another", "the certificate %s is for %s, and not for %s", l.SSLCert, some(cert.pair.Names), host)), false)
				}
			}
		}
		if l.TLS.TLS != "" {
			r.tell(labels.Warning, "tls", "ssl_cert names a certificate, which holds", "remove one of them")
		}
	case l.TLS.TLS == "local":
		r.tls.named, r.tls.local = true, true
		r.svc.dated = true
		if r.svc.b.material.Local() == nil && !r.svc.b.elsewhere() {
			r.lacks(plainStays(errorAt("tls", "make state_dir writable for the control plane, or mount the secret waggle-local-ca, or name a certificate with ssl_cert", "the control plane has no development authority")), false)
		}
	case r.said("ssl_cert") || r.said("tls"):
		r.tls.named = true // badly: their author was told
	case l.SSLKey != "":
		r.lacks(plainStays(errorAt("ssl_key", "name the certificate with "+r.key("ssl_cert"), "there is no ssl_cert beside it")), false)
	}
}

// said reports whether the route says something with a key, be it bad.
func (r *route) said(key string) bool {
	_, is := r.label.Labels[key]
	return is
}

// plainStays adds what a certificate costs that cannot be used.
func plainStays(err error) error {
	e, ok := err.(*labelError)
	if !ok || e.assumed {
		return err
	}
	e.reason += ": HTTPS of the host is refused, plain HTTP stays"
	e.severe = true
	return e
}

// pair is the certificate that a route names. Nil without an error where it is
// elsewhere, and nobody here would serve it.
func (r *route) pair() (*certificate, error) {
	l, s := r.label, r.svc
	s.dated = true
	item, err := r.material("ssl_cert", l.SSLCert)
	var key secrets.Item
	var more []secrets.Item
	if l.SSLKey != "" && l.SSLKey != l.SSLCert { // asked for in any case: what is fetched is fetched together
		var keyErr error
		key, keyErr = r.material("ssl_key", l.SSLKey)
		err = cmp.Or(err, keyErr)
		more = append(more, key)
	}
	if err != nil {
		return nil, err
	}
	if item.Assumed || key.Assumed {
		label, name := "ssl_cert", item.Name
		if !item.Assumed {
			label, name = "ssl_key", key.Name
		}
		r.tell(labels.Info, label, fmt.Sprintf("the secret %s is declared external, and its content is not known here", name), "")
		if !s.b.elsewhere() {
			return nil, nil
		}
		// What is asked here is what would be served there.
		return &certificate{secret: secretName("cert", item, more...), pair: &secrets.Pair{
			Names: withoutEverything(l.Hosts), Chain: secrets.Hide([]byte(secrets.Redacted)), Key: secrets.Hide([]byte(secrets.Redacted)),
		}}, nil
	}
	if why := s.b.keepsKeys(item, key); why != "" {
		return nil, errorAt("ssl_cert", "give the channel its TLS (xds.tls)", "%s", why)
	}
	pair, findings, err := secrets.ReadPair(item, key, s.b.material.At())
	if err != nil {
		return nil, refused509("ssl_cert", err)
	}
	for _, f := range findings {
		r.tell(labels.Warning, "ssl_cert", f.Text, f.Hint)
	}
	return &certificate{secret: secretName("cert", item, more...), pair: pair}, nil
}

// authorities gives the resource with the CA certificates that a key names.
func (r *route) authorities(key, name string) (*tlsv3.Secret, error) {
	s := r.svc
	s.dated = true
	item, err := r.material(key, name)
	if err != nil {
		return nil, err
	}
	pem := secrets.Hide([]byte(secrets.Redacted))
	if item.Assumed {
		if !s.b.elsewhere() {
			return nil, &labelError{key: key, assumed: true, reason: fmt.Sprintf("the %s %s is declared external, and its content is not known here", item.Kind, item.Name)}
		}
		r.tell(labels.Info, key, fmt.Sprintf("the %s %s is declared external, and its content is not known here", item.Kind, item.Name), "")
	} else {
		var findings []secrets.Finding
		if pem, _, findings, err = secrets.ReadAuthorities(item, s.b.material.At()); err != nil {
			return nil, refused509(key, err)
		}
		for _, f := range findings {
			r.tell(labels.Warning, key, f.Text, f.Hint)
		}
	}
	return &tlsv3.Secret{Name: secretName("ca", item), Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		TrustedCa: hidden(pem),
	}}}, nil
}

// refused509 is what the secrets room says against a certificate, as an error of a key.
func refused509(key string, err error) error {
	hint := ""
	if r, ok := errors.AsType[*secrets.Refusal](err); ok {
		hint = r.Hint()
	}
	return errorAt(key, hint, "%s", err.Error())
}

// elsewhere reports whether what is built is for reading alone: no proxy gets it.
func (b *Builder) elsewhere() bool { return b.picture.Static && !b.picture.Loopback }

// keepsKeys says why the keys in Docker secrets are not sent to proxies, or "".
func (b *Builder) keepsKeys(items ...secrets.Item) string {
	if !b.cfg.XDS.Insecure || b.picture.Static || b.picture.Loopback {
		return ""
	}
	for _, i := range items {
		if i.Kind == secrets.Secret {
			return fmt.Sprintf("the secret %s would be sent in the clear: the channel to the proxies has no TLS (xds.insecure)", i.Name)
		}
	}
	return ""
}

// tell notes something about a key of the route.
func (r *route) tell(severity labels.Severity, key, reason, hint string) {
	p := r.problem(severity, key, reason)
	p.Hint = hint
	r.svc.problems = append(r.svc.problems, p)
}

func withoutEverything(hosts []string) []string {
	return slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return h == "*" })
}

// some names a few of many.
func some(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
