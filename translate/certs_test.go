package translate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"sync"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/watcher"
)

// pemOf is a certificate for names, with its key: the same bytes for the same names.
// A name of "CA" makes it an authority's.
func pemOf(names ...string) (cert, key string) { return madeOf("", names...) }

// renewal is another certificate for names, with another key.
func renewal(names ...string) string {
	cert, key := madeOf("renewed", names...)
	return cert + key
}

func madeOf(salt string, names ...string) (cert, key string) {
	id := strings.Join(names, " ") + salt
	if made, ok := pems.Load(id); ok {
		both := made.([2]string)
		return both[0], both[1]
	}
	sum := sha256.Sum256([]byte(id))
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), sum[:])
	if err != nil {
		panic(err)
	}
	t := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(sum[:8]), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: epoch.AddDate(-1, 0, 0), NotAfter: epoch.AddDate(50, 0, 0), DNSNames: names,
	}
	if names[0] == "CA" {
		t.IsCA, t.BasicConstraintsValid, t.DNSNames = true, true, nil
	}
	der, err := x509.CreateCertificate(nil, t, t, k.Public(), k)
	if err != nil {
		panic(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		panic(err)
	}
	cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	pems.Store(id, [2]string{cert, key})
	return cert, key
}

var pems sync.Map

// both is one PEM with certificate and key.
func both(names ...string) string {
	cert, key := pemOf(names...)
	return cert + key
}

// gives makes Docker configs that hold certificates for names.
func (w *world) gives(name string, pem string) {
	if w.Configs == nil {
		w.Configs = map[string]*watcher.Config{}
	}
	w.Configs[name] = &watcher.Config{ID: name, Name: name, Data: []byte(pem)}
}

// listing is a collection with certificates in a directory, by file.
func listing(files map[string]string) *secrets.Material {
	var items []secrets.Item
	for name, pem := range files {
		items = append(items, secrets.Item{Kind: secrets.File, Name: name, Data: secrets.Hide([]byte(pem))})
	}
	return secrets.Of(map[string][]secrets.Item{"dev": items})
}
