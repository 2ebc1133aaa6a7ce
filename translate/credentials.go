package translate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"
)

// What is read here is key material, brought into the one form that Envoy takes:
// one bad entry would else cost a whole table. Errors name lines and forms, and never
// repeat content: what stands where a user's name should may be a key.

// maxCredentials bounds one file: all of it stands in every route that uses it.
const maxCredentials = 10_000

// lines gives the lines of a file that say something, by their number.
func lines(data []byte) (map[int]string, []int, error) {
	if !utf8.Valid(data) {
		return nil, nil, errors.New("is not text in UTF-8")
	}
	all, order := map[int]string{}, []int(nil)
	n := 0
	for line := range strings.Lines(strings.TrimPrefix(string(data), "\uFEFF")) {
		n++
		line = strings.TrimRight(line, "\r\n")
		if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return nil, nil, fmt.Errorf("line %d holds a control character", n)
		}
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		all[n] = line
		order = append(order, n)
	}
	switch {
	case len(order) == 0:
		return nil, nil, errors.New("has no entries")
	case len(order) > maxCredentials:
		return nil, nil, fmt.Errorf("has more than %d entries", maxCredentials)
	}
	return all, order, nil
}

// htpasswd reads a file as Apache's htpasswd makes it.
func htpasswd(data []byte) (string, error) {
	text, order, err := lines(data)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	seen := map[string]int{}
	for _, n := range order {
		user, hash, found := strings.Cut(text[n], ":")
		if !found || user == "" {
			return "", fmt.Errorf("line %d is not user:password", n)
		}
		if first, twice := seen[user]; twice {
			return "", fmt.Errorf("line %d: the user is already in line %d", n, first)
		}
		seen[user] = n
		sum, is := strings.CutPrefix(hash, "{SHA}")
		if raw, err := base64.StdEncoding.DecodeString(sum); !is || err != nil || len(raw) != 20 {
			return "", fmt.Errorf("line %d: the password %s; Envoy can only check {SHA}", n, hashForm(hash))
		}
		out.WriteString(user + ":" + hash + "\n")
	}
	return out.String(), nil
}

// hashForm says which form of password it is, and nothing of it.
func hashForm(hash string) string {
	for _, f := range []struct{ prefix, name string }{
		{"$2", "is in bcrypt"}, {"$apr1$", "is in Apache's MD5"}, {"$1$", "is in MD5"}, {"$5$", "is in SHA-256 crypt"}, {"$6$", "is in SHA-512 crypt"},
		{"$argon2", "is in Argon2"}, {"$y$", "is in yescrypt"}, {"{SSHA}", "is in salted SHA"}, {"{SHA}", "is not a whole {SHA}"},
	} {
		if strings.HasPrefix(hash, f.prefix) {
			return f.name
		}
	}
	return "is in no known form"
}

type apiKey struct{ client, key string }

// apiKeyList reads keys, one a line: "key", or "client:key".
func apiKeyList(data []byte) ([]apiKey, error) {
	text, order, err := lines(data)
	if err != nil {
		return nil, err
	}
	var out []apiKey
	seen := map[string]int{}
	for _, n := range order {
		client, key, named := strings.Cut(text[n], ":")
		if !named {
			client, key = fmt.Sprintf("line-%d", n), client
		}
		client, key = strings.TrimSpace(client), strings.TrimSpace(key)
		switch {
		case client == "" || key == "":
			return nil, fmt.Errorf("line %d is not a key or client:key", n)
		case strings.ContainsAny(key, " \t"):
			return nil, fmt.Errorf("line %d: a key holds no blank", n)
		}
		if first, twice := seen[key]; twice {
			return nil, fmt.Errorf("line %d: the key is already in line %d", n, first)
		}
		seen[key] = n
		out = append(out, apiKey{client, key})
	}
	return out, nil
}

// webKeys reads a JSON Web Key Set (RFC 7517) and gives what of its keys signatures
// can be checked with. Private and symmetric keys do not belong to a proxy.
func webKeys(data []byte) (string, error) {
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&set); err != nil {
		return "", errors.New("is not a JSON Web Key Set") // the decoder's error may quote it
	}
	if len(set.Keys) > 100 {
		return "", errors.New("has more than 100 keys")
	}
	var out []map[string]string
	for i, k := range set.Keys {
		public, err := webKey(k)
		if err != nil {
			return "", fmt.Errorf("key %d %w", i+1, err)
		}
		if public != nil {
			out = append(out, public)
		}
	}
	if len(out) == 0 {
		return "", errors.New("has no key that signatures can be checked with")
	}
	raw, err := json.Marshal(map[string]any{"keys": out}) // maps are sorted
	return string(raw), err
}

// signatures are the algorithms (RFC 7518, 8037) that keys of a kind are for. Envoy
// takes no set with an algorithm that does not fit.
var signatures = map[string][]string{
	"RSA":        {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
	"ECP-256":    {"ES256"},
	"ECP-384":    {"ES384"},
	"ECP-521":    {"ES512"},
	"OKPEd25519": {"EdDSA"},
	"oct":        {"HS256", "HS384", "HS512"},
}

// webKey is the public part of a key; nil for keys that are for something else.
func webKey(k map[string]any) (map[string]string, error) {
	field := func(name string) string { s, _ := k[name].(string); return s }
	number := func(name string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(field(name), "="))
		if err != nil {
			return nil
		}
		return b
	}
	if _, private := k["d"]; private { // whatever it is for
		return nil, errors.New("is a private key; only public keys belong here")
	}
	if field("use") == "enc" || field("alg") != "" && !slices.Contains(signatures[field("kty")+field("crv")], field("alg")) {
		return nil, nil
	}
	out := map[string]string{"kty": field("kty")}
	for _, name := range []string{"kid", "alg"} {
		if v := field(name); v != "" {
			out[name] = v
		}
	}
	keep := func(names ...string) {
		for _, n := range names {
			out[n] = base64.RawURLEncoding.EncodeToString(number(n))
		}
	}
	switch field("kty") {
	case "RSA":
		n, e := new(big.Int).SetBytes(number("n")), new(big.Int).SetBytes(number("e"))
		if n.BitLen() < 2048 || n.BitLen() > 8192 || n.Bit(0) == 0 || e.BitLen() < 2 || e.BitLen() > 32 || e.Bit(0) == 0 {
			return nil, errors.New("is no RSA key of 2048 bits or more")
		}
		keep("n", "e")
	case "EC":
		curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[field("crv")]
		if curve == nil {
			return nil, errors.New("is on another curve than P-256, P-384 and P-521")
		}
		size := (curve.Params().BitSize + 7) / 8
		x, y := number("x"), number("y")
		if len(x) != size || len(y) != size {
			return nil, errors.New("is no point of its curve")
		}
		if _, err := ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, x...), y...)); err != nil {
			return nil, errors.New("is no point of its curve")
		}
		out["crv"] = field("crv")
		keep("x", "y")
	case "OKP":
		if field("crv") != "Ed25519" || len(number("x")) != 32 {
			return nil, errors.New("is no Ed25519 key")
		}
		out["crv"] = "Ed25519"
		keep("x")
	case "oct":
		return nil, errors.New("is symmetric: whoever can check a token with it can make one")
	default:
		return nil, errors.New("is of a kind that is not known")
	}
	return out, nil
}
