package secrets

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// chain leads from a leaf to its root, without the root.
type chain []*x509.Certificate

// order finds the way from a leaf upwards among certificates that came with it.
// Looking for it is bounded, whatever they say of each other.
func order(leaf *x509.Certificate, among []*x509.Certificate) chain {
	c := chain{leaf}
	if len(among) > mostGiven {
		among = among[:mostGiven]
	}
	for len(c) < mostChain {
		at := c[len(c)-1]
		next := slices.IndexFunc(among, func(o *x509.Certificate) bool {
			return issued(o, at) && !root(o) && !slices.ContainsFunc(c, o.Equal)
		})
		if root(at) || next < 0 {
			break
		}
		c = append(c, among[next])
	}
	return c
}

// root reports whether a certificate is its own issuer.
func root(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

// issued reports whether an authority issued a certificate.
func issued(by, c *x509.Certificate) bool {
	if !bytes.Equal(by.RawSubject, c.RawIssuer) || len(c.AuthorityKeyId) > 0 && len(by.SubjectKeyId) > 0 && !bytes.Equal(by.SubjectKeyId, c.AuthorityKeyId) {
		return false
	}
	switch c.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.MD5WithRSA, x509.UnknownSignatureAlgorithm:
		return true // not checked by anybody any more
	}
	if k, ok := by.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() > mostRSA {
		return false // would take minutes
	}
	return by.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

func (c chain) pem() []byte { return encode(c) }

// findings says what was done to a chain, and what is wrong above its leaf.
func (c chain) findings(given []*x509.Certificate, at time.Time) []Finding {
	var all []Finding
	var own []*x509.Certificate // of what was given
	var foreign int
	for _, g := range given {
		switch {
		case slices.ContainsFunc(c, g.Equal), root(g):
			own = append(own, g)
		case !same509(g.PublicKey, c[0].PublicKey): // those were told
			foreign++
		}
	}
	place := make([]int, len(c))
	for n, o := range c {
		place[n] = slices.IndexFunc(own, o.Equal)
	}
	if place[0] != 0 || !slices.IsSorted(place) {
		all = append(all, Finding{"holds its certificates in another order than clients expect: they are put in order", "leaf first, then the authority that issued it, then that one's"})
	}
	const leave = "leave the certificate to be served, and what leads to its root"
	switch {
	case foreign == 1:
		all = append(all, Finding{"holds a certificate that does not lead from its leaf to its root: it is left out", leave})
	case foreign > 1:
		all = append(all, Finding{fmt.Sprintf("holds %d certificates that do not lead from its leaf to its root: they are left out", foreign), leave})
	}
	// A public authority says where its certificate is, because it is needed.
	top := c[len(c)-1]
	rooted := slices.ContainsFunc(given, func(g *x509.Certificate) bool { return root(g) && issued(g, top) })
	if len(c) == 1 && !root(top) && !rooted && len(top.IssuingCertificateURL) > 0 {
		all = append(all, Finding{"does not hold the authority that issued it (" + shown(top.Issuer.CommonName) + "): not every client will find it", "give the full chain (fullchain.pem)"})
	}
	for _, o := range c[1:] {
		switch {
		case at.IsZero():
		case at.After(o.NotAfter):
			all = append(all, Finding{"holds the authority " + shown(o.Subject.CommonName) + ", which ended on " + day(o.NotAfter) + ": clients may refuse it", "give the chain that its issuer uses now"})
		case !at.Before(o.NotAfter.Add(-Soon)):
			all = append(all, Finding{"holds the authority " + shown(o.Subject.CommonName) + ", which ends on " + day(o.NotAfter), "renew it"})
		}
	}
	return all
}

// keyUsage is the extension of that name.
var keyUsage = asn1.ObjectIdentifier{2, 5, 29, 15}

// mustStaple is the TLS feature extension (RFC 7633). Proxies take no certificate with
// it that has no OCSP answer beside it.
var mustStaple = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}

// clientsRefuse says why clients may refuse a certificate that a proxy serves.
func clientsRefuse(c *x509.Certificate) []Finding {
	var all []Finding
	switch c.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1, x509.MD5WithRSA:
		all = append(all, Finding{"is signed with " + c.SignatureAlgorithm.String() + ", which clients refuse", "issue it with SHA-256"})
	}
	if !hasNames(c) {
		all = append(all, Finding{"has its host as common name alone, which browsers and most clients refuse", "issue it with the hosts as DNS names (subject alternative names)"})
	}
	if mayNotSign(c) {
		all = append(all, Finding{"has a key that may not be used for signatures (its key usage), which clients of TLS 1.3 refuse", "issue it with the key usage digitalSignature"})
	}
	server := func(u x509.ExtKeyUsage) bool { return u == x509.ExtKeyUsageServerAuth || u == x509.ExtKeyUsageAny }
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 && !slices.ContainsFunc(c.ExtKeyUsage, server) {
		all = append(all, Finding{"is not issued for servers (its extended key usage), and clients refuse it", "issue it with serverAuth"})
	}
	return all
}

// mayNotSign reports whether a certificate says that its key signs nothing.
func mayNotSign(c *x509.Certificate) bool {
	return c.KeyUsage&x509.KeyUsageDigitalSignature == 0 && slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(keyUsage) })
}

func hasNames(c *x509.Certificate) bool {
	return len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses)+len(c.URIs) > 0
}

// namesOf gives the hosts that a certificate is for, and what else it names.
func namesOf(c *x509.Certificate) (names, skipped []string) {
	given := c.DNSNames
	if !hasNames(c) && c.Subject.CommonName != "" {
		given = []string{c.Subject.CommonName}
	}
	seen := map[string]bool{}
	for _, n := range given {
		name := strings.ToLower(n)
		switch {
		case seen[name]:
		case !servable(name):
			skipped = append(skipped, shown(n))
		default:
			names = append(names, name)
		}
		seen[name] = true
	}
	for _, ip := range c.IPAddresses {
		skipped = append(skipped, ip.String())
	}
	return names, skipped
}

// servable reports whether a host may be called so, or one label more where it begins
// with *. .
func servable(name string) bool {
	host := strings.TrimPrefix(name, "*.")
	if host == "" || len(name) > 253 {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || strings.HasSuffix(label, "-") || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}
