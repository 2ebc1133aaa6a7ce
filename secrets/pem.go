package secrets

import (
	"bytes"
	"crypto"
	"crypto/dsa" //nolint:staticcheck // named in a diagnosis only
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Limits of what is read as PEM. A bundle of all public roots has about 150 blocks.
const (
	mostBlocks = 1000
	mostKeyDER = 5 << 10 // RSA of 8192 bits has 4.7 KB; more would only cost time
)

// parts are what a PEM text holds.
type parts struct {
	certs []*x509.Certificate
	keys  []privateKey
	other []string // what else there is and was not asked for, in words
}

// privateKey is a key that nobody may see: a function, as the content of Bytes is.
type privateKey func() crypto.Signer

// otherText says what is there instead of what is looked for.
func (p parts) otherText() string {
	if len(p.other) == 0 {
		return ""
	}
	return ": it holds " + some(p.other)
}

// parse reads PEM. Line ends, text around the blocks and their order do not matter.
func parse(i Item) (parts, *Refusal) {
	var p parts
	text := i.Data.Reveal()
	if len(bytes.TrimSpace(text)) == 0 {
		return p, refuse(i, "is empty", "put the certificate or key there, as PEM")
	}
	blocks := bytes.Split(text, []byte(begin))[1:]
	if len(blocks) == 0 {
		return p, foreign(i, text)
	}
	if len(blocks) > mostBlocks {
		return p, refuse(i, fmt.Sprintf("holds %d certificates or keys, and at most %d are read", len(blocks), mostBlocks), "leave what belongs together")
	}
	for n, rest := range blocks {
		where := ""
		if len(blocks) > 1 {
			where = fmt.Sprintf(" (the %s of %d)", ordinal(n+1), len(blocks))
		}
		kind, block, refusal := decode(i, rest, where)
		if refusal == nil {
			refusal = p.add(i, kind, block, where)
		}
		if refusal != nil {
			return parts{}, refusal
		}
	}
	return p, nil
}

const begin, end, dashes = "-----BEGIN ", "-----END ", "-----"

// decode reads one block, of which rest is what follows begin.
func decode(i Item, rest []byte, where string) (kind string, block *pem.Block, refusal *Refusal) {
	label, body, ok := strings.Cut(string(rest), dashes)
	kind = what(label)
	switch {
	case !ok || len(label) > 64 || strings.ContainsAny(label, "\r\n"):
		return "", nil, refuse(i, "has a damaged BEGIN line"+where, "copy the file again, as it was made")
	case strings.HasPrefix(body, `\n`) || strings.HasPrefix(body, `\r`):
		return "", nil, refuse(i, `has \n written out where lines end`+where, `replace each \n by a line end: printf '%b' "$TEXT" > FILE`)
	case !strings.Contains(body, end+label+dashes) && strings.Contains(body, end):
		return "", nil, refuse(i, "has "+kind+" whose BEGIN and END lines do not belong together"+where, "copy the file again, as it was made")
	case !strings.Contains(body, end+label+dashes):
		return "", nil, refuse(i, "has "+kind+" that is cut off"+where+": its END line is missing", "copy the whole file, to its last line")
	}
	if strings.Contains(body, "Proc-Type:") && strings.Contains(body, "ENCRYPTED") {
		return "", nil, encrypted(i, where)
	}
	// Base64 alone, whatever somebody did to its lines. Headers there are none, but for
	// what is encrypted.
	body, _, _ = strings.Cut(body, end)
	text := begin + label + dashes + "\n" + strings.Join(strings.Fields(body), "\n") + "\n" + end + label + dashes + "\n"
	block, _ = pem.Decode([]byte(text))
	if block == nil || len(block.Bytes) == 0 {
		return "", nil, refuse(i, "has "+kind+" that is damaged"+where, "copy the file again, as it was made")
	}
	return kind, block, nil
}

// add takes one block.
func (p *parts) add(i Item, kind string, block *pem.Block, where string) *Refusal {
	switch block.Type {
	case "CERTIFICATE", "X509 CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || !wellFormed(block.Bytes) {
			return refuse(i, "has a certificate that cannot be read"+where, "copy it again; `openssl x509 -noout -text` must show it")
		}
		if !slices.ContainsFunc(p.certs, c.Equal) {
			p.certs = append(p.certs, c)
		}
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
		if len(block.Bytes) > mostKeyDER {
			return refuse(i, "has a private key that is too large"+where, "make a new key, RSA of 2048 bits or ECDSA P-256")
		}
		k := parseKey(block.Bytes)
		if k == nil {
			return refuse(i, "has a private key that cannot be read"+where, "`openssl pkey -noout -check` must say that it is valid; proxies take RSA and ECDSA")
		}
		p.keys = append(p.keys, func() crypto.Signer { return k })
	case "ENCRYPTED PRIVATE KEY":
		return encrypted(i, where)
	case "EC PARAMETERS", "DH PARAMETERS":
	default:
		p.other = append(p.other, kind)
	}
	return nil
}

// parseKey reads a key in any of its forms; nil where it is none. The label of the
// block is not believed: it is often the wrong one.
func parseKey(der []byte) crypto.Signer {
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		s, _ := k.(crypto.Signer)
		if r, ok := s.(*rsa.PrivateKey); ok && len(r.Primes) != 2 {
			return nil // proxies have none of several primes
		}
		return s
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil && len(k.Primes) == 2 {
		return k
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k
	}
	return nil
}

func encrypted(i Item, where string) *Refusal {
	return refuse(i, "has a private key that is encrypted with a password"+where, "store it without one, as a secret: openssl pkey -in KEY -out NEW")
}

// what is a block in words.
func what(label string) string {
	switch label {
	case "CERTIFICATE", "X509 CERTIFICATE":
		return "a certificate"
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "DSA PRIVATE KEY":
		return "a private key"
	case "OPENSSH PRIVATE KEY":
		return "a key of OpenSSH"
	case "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST":
		return "a certificate request"
	case "PUBLIC KEY", "RSA PUBLIC KEY":
		return "a public key"
	case "TRUSTED CERTIFICATE":
		return "a certificate in OpenSSL's own form (TRUSTED CERTIFICATE)"
	case "PKCS7":
		return "a PKCS #7 bundle"
	case "X509 CRL":
		return "a list of revoked certificates"
	}
	// What no program writes is not shown: it may be anything.
	if len(label) > 40 || strings.Trim(label, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ") != "" {
		return "something else"
	}
	return "something else (" + label + ")"
}

// foreign says what a text without PEM is.
func foreign(i Item, text []byte) *Refusal {
	switch {
	case bytes.HasPrefix(text, []byte{0xff, 0xfe}) || bytes.HasPrefix(text, []byte{0xfe, 0xff}):
		return refuse(i, "is UTF-16 text", "save it as plain text (UTF-8 or ASCII)")
	case bytes.HasPrefix(text, []byte{0xfe, 0xed, 0xfe, 0xed}):
		return refuse(i, "is a Java key store", "take certificate and key out of it as PEM: keytool -importkeystore -deststoretype PKCS12, then openssl pkcs12 -nodes")
	case text[0] == 0x30:
		var outer struct {
			Version int
			Rest    asn1.RawValue
		}
		if _, err := asn1.Unmarshal(text, &outer); err == nil && outer.Version == 3 {
			return refuse(i, "is a PKCS #12 file (.p12, .pfx)", "take certificate and key out of it as PEM: openssl pkcs12 -in FILE -nodes -out NEW")
		}
		if certs, err := x509.ParseCertificates(text); err == nil && len(certs) > 0 {
			return refuse(i, "is a certificate in DER form", "store it as PEM: openssl x509 -inform der -in FILE -out NEW")
		}
		if len(text) <= mostKeyDER && parseKey(text) != nil {
			return refuse(i, "is a private key in DER form", "store it as PEM: openssl pkey -inform der -in FILE -out NEW")
		}
		return refuse(i, "is binary (DER?), not PEM", "store it as PEM: it begins with -----BEGIN")
	}
	return refuse(i, "holds nothing in PEM form", "store certificate and key as PEM: each begins with -----BEGIN")
}

// kindOf is a public key in words.
func kindOf(k crypto.PublicKey) string {
	switch k := k.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("an RSA key of %d bits", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "an ECDSA key on " + k.Curve.Params().Name
	case ed25519.PublicKey:
		return "an Ed25519 key"
	case *dsa.PublicKey:
		return "a DSA key"
	}
	return "a key of another kind"
}

func encode(certs []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a buffer takes everything
	}
	return b.Bytes()
}

func refuse(i Item, reason, hint string) *Refusal {
	return &Refusal{reason: called(i) + " " + reason, hint: hint}
}

// called is an item in words.
func called(i Item) string {
	if i.Name == "" {
		return "the certificate"
	}
	return "the " + string(i.Kind) + " " + i.Name
}

// shown is text of somebody else as it may stand in a sentence.
func shown(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 80 {
		s = string(r[:79]) + "…"
	}
	return s
}

// some are the first of several.
func some(all []string) string {
	const most = 3
	if len(all) <= most {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
}

func list3(all []string, format string) string {
	if len(all) == 0 {
		return ""
	}
	return fmt.Sprintf(format, some(all))
}

func ordinal(n int) string {
	suffix := "th"
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprintf("%d%s", n, suffix)
}
