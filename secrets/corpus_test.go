package secrets

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/stretchr/testify/require"
)

// today is when the corpus is read.
var today = time.Date(2026, 3, 15, 12, 0, 0, 0, time.UTC)

// specimen is a certificate and a key as somebody may store them.
type specimen struct {
	name      string
	cert, key string // key "": cert holds both
}

func (s specimen) read(at time.Time) (*Pair, []Finding, error) {
	key := Item{}
	if s.key != "" {
		key = Item{Kind: Secret, Name: "site_key", Data: Hide([]byte(s.key))}
	}
	return ReadPair(Item{Kind: Secret, Name: "site_cert", Data: Hide([]byte(s.cert))}, key, at)
}

// ec makes a key of a name; the same every time.
func ec(curve elliptic.Curve, name string) *ecdsa.PrivateKey {
	for n := byte(0); ; n++ {
		var raw []byte
		for b := byte(0); len(raw) < 66; b++ {
			sum := sha256.Sum256([]byte(name + string([]byte{n, b})))
			raw = append(raw, sum[:]...)
		}
		size := (curve.Params().BitSize + 7) / 8
		raw = raw[:size]
		if extra := size*8 - curve.Params().BitSize; extra > 0 {
			raw[0] >>= extra
		}
		if k, err := ecdsa.ParseRawPrivateKey(curve, raw); err == nil {
			return k
		}
	}
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, bits)
	require.NoError(t, err)
	return k
}

// forge makes the corpus.
type forge struct {
	t                  testing.TB
	root, intermediate *x509.Certificate
	rootKey, interKey  *ecdsa.PrivateKey
	siteKey            *ecdsa.PrivateKey
}

// template is a good certificate for site.example.com.
func (f *forge) template() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "site.example.com"}, DNSNames: []string{"site.example.com"},
		NotBefore: today.AddDate(0, -1, 0), NotAfter: today.AddDate(0, 2, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
}

func (f *forge) authority(name string) *x509.Certificate {
	c := f.template()
	c.Subject, c.DNSNames, c.ExtKeyUsage = pkix.Name{CommonName: name}, nil, nil
	c.IsCA, c.KeyUsage, c.NotAfter = true, x509.KeyUsageCertSign, today.AddDate(5, 0, 0)
	return c
}

func (f *forge) sign(c, by *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	der, err := x509.CreateCertificate(nil, c, by, public, key)
	require.NoError(f.t, err)
	out, err := x509.ParseCertificate(der)
	require.NoError(f.t, err)
	return out
}

func newForge(t testing.TB) *forge {
	f := &forge{t: t, rootKey: ec(elliptic.P256(), "root"), interKey: ec(elliptic.P256(), "intermediate"), siteKey: ec(elliptic.P256(), "site")}
	root := f.authority("Test root")
	f.root = f.sign(root, root, f.rootKey.Public(), f.rootKey)
	f.intermediate = f.sign(f.authority("Test intermediate"), f.root, f.interKey.Public(), f.rootKey)
	return f
}

// leaf issues a certificate for a key; change may alter what it says.
func (f *forge) leaf(public crypto.PublicKey, change func(*x509.Certificate)) string {
	c := f.template()
	if change != nil {
		change(c)
	}
	return certPEM(f.sign(c, f.intermediate, public, f.interKey))
}

func certPEM(c *x509.Certificate) string { return block("CERTIFICATE", c.Raw) }

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func keyPEM(t testing.TB, k crypto.Signer) string {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	return block("PRIVATE KEY", der)
}

func sec1(t testing.TB, k *ecdsa.PrivateKey) string {
	der, err := x509.MarshalECPrivateKey(k)
	require.NoError(t, err)
	return block("EC PRIVATE KEY", der)
}

func derOf(text string) []byte {
	b, _ := pem.Decode([]byte(text))
	return b.Bytes
}

var makeCorpus = sync.OnceValue(func() []specimen { return corpus(nil) })

// corpus is what people store as certificates, good and bad.
func corpus(t testing.TB) []specimen {
	if t == nil {
		t = &testing.T{}
	}
	f := newForge(t)
	site, key := f.leaf(f.siteKey.Public(), nil), keyPEM(t, f.siteKey)
	inter, root := certPEM(f.intermediate), certPEM(f.root)
	otherKey := ec(elliptic.P256(), "other")
	other := f.leaf(otherKey.Public(), func(c *x509.Certificate) { c.DNSNames = []string{"other.example.com"} })
	with := func(change func(*x509.Certificate)) string { return f.leaf(f.siteKey.Public(), change) }
	names := func(dns ...string) string {
		return with(func(c *x509.Certificate) { c.DNSNames = dns })
	}
	under := func(name, leaf string) specimen { return specimen{name, leaf + inter, key} }
	withExt := func(id asn1.ObjectIdentifier, value []byte) string {
		return with(func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{{Id: id, Value: value}} })
	}
	// A leaf that nobody but its owner signed, as snakeoil certificates are.
	self := func(change func(*x509.Certificate)) string {
		c := f.template()
		if change != nil {
			change(c)
		}
		return certPEM(f.sign(c, c, f.siteKey.Public(), f.siteKey))
	}
	modulus := func(bits int) *rsa.PublicKey { // nobody has its key
		n := new(big.Int).SetBit(new(big.Int).Lsh(big.NewInt(1), uint(bits-1)), 0, 1)
		return &rsa.PublicKey{N: n, E: 65537}
	}
	rsa2048, rsa1024, rsa4104 := rsaKey(t, 2048), rsaKey(t, 1024), rsaKey(t, 4104)
	rsaLeaf := func(k *rsa.PrivateKey) string { return f.leaf(k.Public(), nil) }
	curve := func(c elliptic.Curve, name string) specimen {
		k := ec(c, name)
		return specimen{name, f.leaf(k.Public(), nil) + inter, keyPEM(t, k)}
	}
	_, ed, err := ed25519.GenerateKey(bytes.NewReader(make([]byte, 64)))
	require.NoError(t, err)
	crlf := func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
	indent := func(s string) string { return "    " + strings.ReplaceAll(s, "\n", "\n    ") }
	utf16LE := func(s string) string {
		out := []byte{0xff, 0xfe}
		for _, u := range utf16.Encode([]rune(s)) {
			out = append(out, byte(u), byte(u>>8))
		}
		return string(out)
	}
	cut := func(s string) string { return s[:len(s)/2] }
	noEnd := func(s string) string { return strings.Join(strings.Split(s, "\n")[:3], "\n") + "\n" }
	flip := func(s string) string { // one letter of its text
		at := len(s) / 2
		return s[:at] + "!" + s[at+1:]
	}
	encryptedOld := "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00112233445566778899AABBCCDDEEFF\n\n" +
		base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("x"), 48)) + "\n-----END EC PRIVATE KEY-----\n"
	ecParams := block("EC PARAMETERS", []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07})
	p12, err := asn1.Marshal(struct {
		Version int
		Rest    struct{ ID asn1.ObjectIdentifier }
	}{3, struct{ ID asn1.ObjectIdentifier }{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}}})
	require.NoError(t, err)
	expiredInter := f.sign(func() *x509.Certificate {
		c := f.authority("Test intermediate")
		c.NotAfter = today.AddDate(0, 0, -1)
		return c
	}(), f.root, f.interKey.Public(), f.rootKey)
	many := make([]string, 0, 1200)
	for n := range 1200 {
		many = append(many, "h"+big.NewInt(int64(n)).String()+".example.com")
	}
	var trustedRoots strings.Builder
	for range 1001 {
		trustedRoots.WriteString(root)
	}
	tlsFeature := []byte{0x30, 0x03, 0x02, 0x01, 0x05}
	multi, err := rsa.GenerateMultiPrimeKey(rand.Reader, 3, 2048) //nolint:staticcheck // the point of it
	require.NoError(t, err)
	pkcs1 := block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsa2048))

	return []specimen{
		// Good ones, in all the ways in which they are stored.
		under("plain", site),
		{"leaf without chain", site, key},
		{"leaf with chain and root", site + inter + root, key},
		{"one PEM, certificate first", site + inter + key, ""},
		{"one PEM, key first", key + site + inter, ""},
		{"one PEM, key in between", site + key + inter, ""},
		{"both in both", site + inter + key, site + inter + key},
		{"reversed chain", root + inter + site, key},
		{"authority before the leaf", inter + site, key},
		{"foreign certificate in the chain", site + other + inter, key},
		{"two leaves, one key each", other + site + inter, key + keyPEM(t, otherKey)},
		{"two leaves of one key", with(func(c *x509.Certificate) { c.NotAfter = today.AddDate(0, 0, 20) }) + site + inter, key},
		{"two leaves of one key, one to come", with(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = today.AddDate(0, 1, 0), today.AddDate(1, 0, 0)
		}) + site + inter, key},
		{"the same certificate twice", site + site + inter, key},
		{"CRLF", crlf(site + inter), crlf(key)},
		{"old Mac line ends", strings.ReplaceAll(site+inter, "\n", "\r"), strings.ReplaceAll(key, "\n", "\r")},
		{"BOM", "\ufeff" + site + inter, "\ufeff" + key},
		{"text before and between", "subject=CN=site\n" + site + "issuer=x\n\nBag Attributes\n" + inter, "Private-Key: (256 bit)\n" + key + "\n# end"},
		{"indented", indent(site + inter), indent(key)},
		{"no line end between", strings.TrimSpace(site) + inter, strings.TrimSpace(key)},
		{"blanks and empty lines", strings.ReplaceAll(site+inter, "\n", "  \n\n"), strings.ReplaceAll(key, "\n", " \t\n")},
		{"X509 CERTIFICATE", strings.ReplaceAll(site+inter, " CERTIFICATE", " X509 CERTIFICATE"), key},
		{"SEC 1 key with EC PARAMETERS", site + inter, ecParams + sec1(t, f.siteKey)},
		{"SEC 1 key", site + inter, sec1(t, f.siteKey)},
		{"key with the wrong label", site + inter, strings.ReplaceAll(sec1(t, f.siteKey), "EC PRIVATE", "PRIVATE")},
		{"PKCS #1 key", rsaLeaf(rsa2048) + inter, pkcs1},
		{"RSA 2048", rsaLeaf(rsa2048) + inter, keyPEM(t, rsa2048)},
		{"RSA 4104", rsaLeaf(rsa4104) + inter, keyPEM(t, rsa4104)},
		curve(elliptic.P384(), "P-384"),
		curve(elliptic.P521(), "P-521"),
		{"Ed25519", f.leaf(ed.Public(), nil), keyPEM(t, ed)},
		{"RSA for encipherment alone", f.leaf(rsa2048.Public(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }) + inter, keyPEM(t, rsa2048)},
		under("no key usage", with(func(c *x509.Certificate) { c.KeyUsage = 0 })),
		{"self-signed", self(nil), key},
		{"self-signed authority", self(func(c *x509.Certificate) { c.IsCA = true }), key},
		{"expired authority", site + certPEM(expiredInter), key},
		{"public authority missing", with(func(c *x509.Certificate) { c.IssuingCertificateURL = []string{"http://ca.example.com/i.crt"} }), key},
		under("ends soon", with(func(c *x509.Certificate) { c.NotAfter = today.AddDate(0, 0, 13) })),
		under("ends today", with(func(c *x509.Certificate) { c.NotAfter = today })),
		under("begins now", with(func(c *x509.Certificate) { c.NotBefore = today })),
		under("never ends", with(func(c *x509.Certificate) { c.NotAfter = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) })),
		under("wildcard and upper case", names("*.Example.COM", "example.com", "EXAMPLE.com")),
		under("odd names", names("site.example.com", "site.example.com.", "site.example.com:443", "*", "a*.example.com", "*.*.example.com", "10.0.0.1", "a b.example.com", "", "-.example.com", "under_score.example.com")),
		under("addresses", with(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1), net.IPv6loopback} })),
		under("common name alone", names()),
		under("common name of an authority's", with(func(c *x509.Certificate) {
			c.Subject.CommonName = "Site \n Department"
			c.DNSNames = []string{"site.example.com"}
		})),
		under("1200 names", names(many...)),
		under("for clients", with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })),
		under("no extended key usage", with(func(c *x509.Certificate) { c.ExtKeyUsage = nil })),

		// Bad ones.
		{"empty certificate", "", key},
		{"empty key", site, " \n"},
		{"empty one PEM", "\r\n", ""},
		{"blank certificate", " \n\t\n", key},
		{"key of another certificate", site + inter, keyPEM(t, otherKey)},
		{"key of another kind", site + inter, keyPEM(t, rsa2048)},
		{"key of another size", rsaLeaf(rsa2048), keyPEM(t, rsa4104)},
		{"one PEM with another key", site + keyPEM(t, otherKey), ""},
		{"authority's certificate alone", inter, key},
		{"certificate and key exchanged", key, site},
		{"certificate where the key is expected", site, site},
		{"key where the certificate is expected", key, key},
		{"one PEM without a key", site + inter, ""},
		{"one PEM without a certificate", key, ""},
		under("expired", with(func(c *x509.Certificate) { c.NotAfter = today.Add(-time.Second) })),
		under("expired long ago", with(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = today.AddDate(-3, 0, 0), today.AddDate(-2, 0, 0) })),
		under("not valid yet", with(func(c *x509.Certificate) { c.NotBefore = today.Add(time.Hour) })),
		{"garbage certificate", "hello", key},
		{"garbage key", site, "hunter2"},
		{"HTML", "<html><body>404</body></html>", key},
		{"base64 without BEGIN", base64.StdEncoding.EncodeToString(derOf(site)), key},
		{"DER certificate", string(derOf(site)), key},
		{"DER key", site, string(derOf(key))},
		{"PKCS #12", string(p12), ""},
		{"other binary", "0\x03\x02\x01", key},
		{"Java key store", "\xfe\xed\xfe\xed\x00\x00\x00\x02", ""},
		{"UTF-16", utf16LE(site), key},
		{"truncated certificate", cut(site), key},
		{"truncated second certificate", site + cut(inter), key},
		{"truncated key", site, cut(key)},
		{"cut after some lines, then another", noEnd(site) + inter, key},
		{"damaged certificate", flip(site), key},
		{"damaged key", site, flip(key)},
		{"BEGIN line cut off", site + "-----BEGIN CERTIF", key},
		{"END of another kind", strings.Replace(site, "END CERTIFICATE", "END PRIVATE KEY", 1), key},
		{`\n written out`, strings.ReplaceAll(site, "\n", `\n`), key},
		{"one line", strings.ReplaceAll(site, "\n", " "), key},
		{"certificate with nothing in it", block("CERTIFICATE", nil), key},
		{"certificate with something else in it", block("CERTIFICATE", []byte("not DER")), key},
		{"key in a certificate's clothes", block("CERTIFICATE", derOf(key)), key},
		{"key with something else in it", site, block("PRIVATE KEY", []byte("not DER"))},
		{"encrypted key, PKCS #8", site, block("ENCRYPTED PRIVATE KEY", bytes.Repeat([]byte("x"), 64))},
		{"encrypted key, OpenSSL", site, encryptedOld},
		{"OpenSSH key", site, block("OPENSSH PRIVATE KEY", []byte("openssh-key-v1\x00"))},
		{"public key", site, block("PUBLIC KEY", []byte("x"))},
		{"certificate request", block("CERTIFICATE REQUEST", []byte("x")), key},
		{"PKCS #7", block("PKCS7", []byte("x")), key},
		{"OpenSSL's trusted certificate", block("TRUSTED CERTIFICATE", []byte("x")), key},
		{"other label", block("PGP MESSAGE", []byte("x")), key},
		{"label that no program writes", block("WHAT\x1b[31mEVER", []byte("x")), key},
		{"RSA 1024", rsaLeaf(rsa1024) + inter, keyPEM(t, rsa1024)},
		{"RSA 8200", f.leaf(modulus(8200), nil), key},
		{"RSA of three primes", f.leaf(multi.Public(), nil), block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(multi))},
		curve(elliptic.P224(), "P-224"),
		{"huge key", site, block("PRIVATE KEY", make([]byte, 100<<10))},
		{"a thousand certificates", site + trustedRoots.String(), key},
		under("must staple", withExt(mustStaple, tlsFeature)),
		under("ECDSA that may not sign", with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })),
		under("no name", with(func(c *x509.Certificate) { c.Subject, c.DNSNames = pkix.Name{}, nil })),
		under("names that no host has", names("*", "10.0.0.1", "a.example.com:443", "https://example.com")),
		under("common name that no host has", with(func(c *x509.Certificate) { c.Subject, c.DNSNames = pkix.Name{CommonName: "My Site"}, nil })),
	}
}
