package secrets

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"slices"
	"time"
)

// Pair is a certificate with its key that a proxy takes as they are. It is immutable.
type Pair struct {
	Chain Bytes // PEM: the leaf, then what leads to its root, without the root
	Key   Bytes // PEM, PKCS #8
	// Names are the hosts that the certificate is for: lower case, "x" or "*.x", each
	// once, in the certificate's order; at least one. Its common name counts where it
	// has no other name.
	Names               []string
	Serial              string // hexadecimal
	Issuer              string
	NotBefore, NotAfter time.Time
	// Kept says what is wrong with what is there now, where the pair is made of what
	// was there before; "" where it is what is there.
	Kept string
}

// Finding is something about a certificate that its owner should know, and that does
// not keep it from being served. It has nothing of the content but names and dates.
type Finding struct{ Text, Hint string }

// Refusal says why a certificate is not served. It has nothing of a key.
type Refusal struct{ reason, hint string }

// Error says what is wrong, and with which secret, config or file.
func (r *Refusal) Error() string { return r.reason }

// Hint is the way out.
func (r *Refusal) Hint() string { return r.hint }

// Soon is how long before its end a certificate is told to end.
const Soon = 14 * 24 * time.Hour

// Limits of what is taken as a pair.
const (
	leastRSA, usualRSA, mostRSA = 2048, 4096, 8192 // bits
	mostChain                   = 10               // certificates from the leaf on
	mostGiven                   = 200              // certificates among which those are looked for
	mostNames                   = 1000             // of one certificate
)

// ReadPair checks what a certificate and its key say, as of an instant (zero: dates do
// not count), and puts them in the form in which proxies take them. key may be the zero
// Item: then cert holds both. Where they cannot be used and what was there before can,
// it gives that (Kept). An error is a *Refusal.
func ReadPair(cert, key Item, at time.Time) (*Pair, []Finding, error) {
	return readPairBy(cert, key, at, parse)
}

// readPairBy is ReadPair with what gives the parts of an item.
func readPairBy(cert, key Item, at time.Time, parse func(Item) (parts, *Refusal)) (*Pair, []Finding, error) {
	p, findings, refusal := readPair(cert, key, at, parse)
	if refusal == nil {
		return p, findings, nil
	}
	for _, try := range former(cert, key) {
		if p, findings, err := readPair(try.cert, try.key, at, parse); err == nil {
			p.Kept = refusal.reason
			return p, append([]Finding{{
				Text: refusal.reason + ": what was there before stays in service, until " + day(p.NotAfter),
				Hint: refusal.hint,
			}}, findings...), nil
		}
	}
	return nil, nil, refusal
}

func readPair(cert, key Item, at time.Time, parse func(Item) (parts, *Refusal)) (*Pair, []Finding, *Refusal) {
	for _, i := range []Item{cert, key} {
		if i.Assumed {
			return nil, nil, refuse(i, "is not known here", "the control plane that has it will check it")
		}
	}
	both := key.Kind == "" && key.Name == "" && !key.Data.any()
	held, refusal := parse(cert)
	if refusal != nil {
		return nil, nil, refusal
	}
	keys := held
	if !both {
		if keys, refusal = parse(key); refusal != nil {
			return nil, nil, refusal
		}
		if len(held.certs) == 0 && len(held.keys) > 0 && len(keys.certs) > 0 && len(keys.keys) == 0 {
			return nil, nil, refuse(cert, "holds a key, and "+called(key)+" the certificate", "exchange ssl_cert and ssl_key")
		}
	} else {
		key = cert
	}
	switch {
	case len(held.certs) == 0 && len(held.keys) > 0:
		return nil, nil, refuse(cert, "holds a key and no certificate", "give the certificate, with what leads to its root, as PEM")
	case len(held.certs) == 0:
		return nil, nil, refuse(cert, "holds no certificate"+held.otherText(), "give the certificate, with what leads to its root, as PEM")
	case len(keys.keys) == 0 && both:
		return nil, nil, refuse(cert, "holds a certificate and no key"+keys.otherText(), "give the key with ssl_key, or put it into the same PEM")
	case len(keys.keys) == 0 && len(keys.certs) > 0:
		return nil, nil, refuse(key, "holds a certificate and no key", "give the private key that belongs to the certificate, as PEM")
	case len(keys.keys) == 0:
		return nil, nil, refuse(key, "holds no private key"+keys.otherText(), "give the private key that belongs to the certificate, as PEM")
	}
	leaf, signer, refusal := match(cert, key, held.certs, keys.keys, at)
	if refusal != nil {
		return nil, nil, refusal
	}
	c := leaf.cert
	findings := append([]Finding(nil), leaf.findings...)
	tell := func(hint, format string, args ...any) {
		findings = append(findings, Finding{Text: called(cert) + " " + fmt.Sprintf(format, args...), Hint: hint})
	}
	switch reason, hint, refused := weak(c); {
	case refused:
		return nil, nil, refuse(cert, reason, hint)
	case reason != "":
		tell(hint, "%s", reason)
	}
	if refusal := dated(cert, c, at); refusal != nil {
		return nil, nil, refusal
	}
	if !at.IsZero() && !at.Before(c.NotAfter.Add(-Soon)) {
		tell("renew it", "ends on %s", day(c.NotAfter))
	}
	if slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(mustStaple) }) {
		return nil, nil, refuse(cert, "asks for stapled OCSP answers, which are not served", "issue it without must-staple (TLS feature)")
	}
	if _, isRSA := c.PublicKey.(*rsa.PublicKey); mayNotSign(c) && !isRSA {
		return nil, nil, refuse(cert, "has a key that may not be used for signatures (its key usage), as proxies need it", "issue it with the key usage digitalSignature")
	}
	names, skipped := namesOf(c)
	if len(names) == 0 {
		return nil, nil, refuse(cert, "is for no host"+list3(skipped, ": %s is no name of one"), "issue it with the hosts as DNS names (subject alternative names)")
	}
	if len(skipped) > 0 {
		tell("only DNS names, and *. before one, are served", "is also for %s, which no host can be called", some(skipped))
	}
	if len(names) > mostNames {
		tell("issue several certificates", "is for %d hosts, and the first %d of them are served", len(names), mostNames)
		names = names[:mostNames:mostNames]
	}
	chain := order(c, held.certs)
	for _, f := range chain.findings(held.certs, at) {
		tell(f.Hint, "%s", f.Text)
	}
	for _, f := range clientsRefuse(c) {
		tell(f.Hint, "%s", f.Text)
	}
	if key.Kind == Config {
		findings = append(findings, Finding{Text: called(key) + " holds a private key, and configs can be read by everybody who may ask the Swarm", Hint: "make it a secret"})
	}
	kept := ""
	for _, i := range []Item{cert, key} {
		if i.Kept != "" && kept == "" {
			kept = called(i) + " cannot be read now: " + i.Kept
			findings = append(findings, Finding{Text: kept + "; what was there before stays in service", Hint: "make it readable for the control plane"})
		}
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(signer())
	if err != nil {
		return nil, nil, refuse(key, "holds a private key that cannot be used", "make a new key")
	}
	return &Pair{
		Kept:  kept,
		Chain: Hide(chain.pem()), Key: Hide(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
		Names: names, Serial: fmt.Sprintf("%x", c.SerialNumber), Issuer: shown(cmp.Or(c.Issuer.CommonName, c.Issuer.String())),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter,
	}, findings, nil
}

// former are what a pair was made of before, the newest first.
func former(cert, key Item) []struct{ cert, key Item } {
	before := func(i Item) Item {
		if i.former.any() {
			i.Data, i.Kept = i.former, ""
		}
		return i
	}
	var all []struct{ cert, key Item }
	if cert.former.any() {
		all = append(all, struct{ cert, key Item }{before(cert), before(key)})
	}
	if key.former.any() {
		if cert.former.any() {
			all = append(all, struct{ cert, key Item }{before(cert), key})
		}
		all = append(all, struct{ cert, key Item }{cert, before(key)})
	}
	return all
}

// leaf is the certificate of a key.
type leaf struct {
	cert     *x509.Certificate
	findings []Finding
}

// match finds the certificate that belongs to a key. Of several of one key it is the
// one that is valid the longest.
func match(cert, key Item, certs []*x509.Certificate, keys []privateKey, at time.Time) (leaf, privateKey, *Refusal) {
	var found leaf
	var signer privateKey
	for _, k := range keys {
		n := 0
		for _, c := range certs {
			if !same509(k().Public(), c.PublicKey) {
				continue
			}
			n++
			if found.cert == nil || better(c, found.cert, at) {
				found.cert, signer = c, k
			}
		}
		if n > 1 {
			found.findings = []Finding{{Text: called(cert) + " holds several certificates of one key, and the one that ends last is served", Hint: "leave the certificate to be served, and what leads to its root"}}
		}
		if n > 0 {
			return found, signer, nil
		}
	}
	c := certs[0]
	for _, other := range certs {
		if !other.IsCA {
			c = other
			break
		}
	}
	if reason, hint, refused := weak(c); refused { // what would be wrong with the right key too
		return leaf{}, nil, refuse(cert, reason, hint)
	}
	if both := !key.Data.any() || key.Kind == cert.Kind && key.Name == cert.Name; both {
		return leaf{}, nil, refuse(cert, "holds a key that does not belong to its certificate", "give the key with which the certificate was requested")
	}
	if c.IsCA && !root(c) {
		return leaf{}, nil, refuse(cert, "holds the certificate of an authority, and none that belongs to "+called(key), "give the certificate that it issued, first")
	}
	if kind, other := kindOf(c.PublicKey), kindOf(keys[0]().Public()); kind != other {
		return leaf{}, nil, refuse(key, fmt.Sprintf("holds a key that does not belong to %s: it is %s, and that has %s", called(cert), other, kind), "give the key with which the certificate was requested")
	}
	return leaf{}, nil, refuse(key, "holds a key that does not belong to "+called(cert), "give the key with which the certificate was requested")
}

// better reports whether a is to be served rather than b, where both are of one key.
func better(a, b *x509.Certificate, at time.Time) bool {
	begun := func(c *x509.Certificate) bool { return at.IsZero() || !at.Before(c.NotBefore) }
	if begun(a) != begun(b) {
		return begun(a)
	}
	return a.NotAfter.After(b.NotAfter)
}

func same509(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// weak says what is wrong with the key of a certificate; "" where nothing is. Unless it
// is refused it is served all the same.
func weak(c *x509.Certificate) (reason, hint string, refused bool) {
	const anew = "make a new key, RSA of 2048 bits or ECDSA P-256, and a certificate for it"
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		switch bits := k.N.BitLen(); {
		case bits < leastRSA:
			return fmt.Sprintf("has an RSA key of %d bits, and proxies take %d and more", bits, leastRSA), anew, true
		case bits > mostRSA:
			return fmt.Sprintf("has an RSA key of %d bits, and at most %d are served", bits, mostRSA), anew, true
		case k.E < 3 || k.E%2 == 0:
			return "has an RSA key that proxies do not take", anew, true
		case bits > usualRSA:
			return fmt.Sprintf("has an RSA key of %d bits, which makes every handshake slow", bits), "an RSA key of 2048 bits, or an ECDSA key, is quicker and strong enough", false
		}
		return "", "", false
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return "", "", false
		}
		return "has an ECDSA key on " + k.Curve.Params().Name + ", and proxies take P-256, P-384 and P-521", anew, true
	case ed25519.PublicKey:
		return "has an Ed25519 key, which no browser takes", anew, false
	}
	return "has " + kindOf(c.PublicKey) + ", and proxies take RSA and ECDSA", anew, true
}

// dated refuses a certificate outside of its time.
func dated(i Item, c *x509.Certificate, at time.Time) *Refusal {
	switch {
	case at.IsZero():
		return nil
	case at.After(c.NotAfter):
		return refuse(i, "ended on "+day(c.NotAfter), "renew it")
	case at.Before(c.NotBefore):
		return refuse(i, "is valid only from "+c.NotBefore.UTC().Format(time.RFC3339), "wait, or look whether the clock is right")
	}
	return nil
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// ReadAuthorities checks certificates of authorities, as of an instant (zero: dates do
// not count), and gives them in the form in which proxies take them, and how many they
// are. Where they cannot be used and what was there before can, it gives that, and says
// so. An error is a *Refusal.
func ReadAuthorities(i Item, at time.Time) (pem Bytes, n int, findings []Finding, err error) {
	pem, n, findings, refusal := readAuthorities(i, at)
	if refusal == nil {
		return pem, n, findings, nil
	}
	if i.formerCA.any() {
		before := i
		before.Data = i.formerCA
		if pem, n, findings, err := readAuthorities(before, at); err == nil {
			return pem, n, append([]Finding{{Text: refusal.reason + ": what was there before stays in force", Hint: refusal.hint}}, findings...), nil
		}
	}
	return Bytes{}, 0, nil, refusal
}

func readAuthorities(i Item, at time.Time) (Bytes, int, []Finding, *Refusal) {
	const hint = "give the certificates of the authorities as PEM"
	if i.Assumed {
		return Bytes{}, 0, nil, refuse(i, "is not known here", "the control plane that has it will check it")
	}
	held, refusal := parse(i)
	if refusal != nil {
		return Bytes{}, 0, nil, refusal
	}
	if len(held.certs) == 0 {
		what := held.otherText()
		if len(held.keys) > 0 {
			what = ": it is a private key"
		}
		return Bytes{}, 0, nil, refuse(i, "holds no certificate"+what, hint)
	}
	var findings []Finding
	if len(held.keys) > 0 {
		findings = append(findings, Finding{Text: called(i) + " also holds a private key, which nobody needs there", Hint: "leave the certificates alone"})
	}
	var use []*x509.Certificate
	ended, seen := 0, map[string]bool{}
	for _, c := range held.certs {
		switch {
		case seen[string(c.Raw)]:
			continue
		case !at.IsZero() && at.After(c.NotAfter):
			ended++
			continue
		}
		seen[string(c.Raw)] = true
		use = append(use, c)
		if !at.IsZero() && !at.Before(c.NotAfter.Add(-Soon)) {
			findings = append(findings, Finding{Text: fmt.Sprintf("%s: the authority %s ends on %s", called(i), shown(c.Subject.CommonName), day(c.NotAfter)), Hint: "add its successor"})
		}
	}
	switch {
	case len(use) == 0:
		return Bytes{}, 0, nil, refuse(i, "holds only authorities that have ended", "give those that are in force")
	case ended > 0:
		findings = append(findings, Finding{Text: fmt.Sprintf("%s holds %d that have ended, and they are left out", called(i), ended), Hint: "take them away"})
	}
	authorities := 0
	for _, c := range use {
		if c.IsCA || c.Version < 3 {
			authorities++
		}
	}
	if authorities == 0 {
		return Bytes{}, 0, nil, refuse(i, "holds no certificate of an authority", "give the certificate of the authority that issued it, not the one that it issued")
	}
	return Hide(encode(use)), len(use), findings, nil
}
