package secrets

import (
	"crypto/elliptic"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/waggle-lb/waggle/config"
)

// One more certificate beside a thousand.
func BenchmarkOneOfAThousand(b *testing.B) {
	f := newForge(b)
	dir := b.TempDir()
	cfg := config.ForCollections([]string{"dev"})
	cfg.Collections["dev"].Certificates.Directories = []string{dir}
	put := func(n int) {
		k := ec(elliptic.P256(), fmt.Sprint(n))
		cert := f.leaf(k.Public(), func(c *x509.Certificate) { c.DNSNames = []string{fmt.Sprintf("h%d.example.com", n)} })
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("h%d.pem", n)), []byte(cert+certPEM(f.intermediate)+keyPEM(b, k)), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for n := range 1000 {
		put(n)
	}
	r := newReader(0)
	m, _, _ := r.read(cfg, "", nil)
	for n := 1000; b.Loop(); n++ {
		b.StopTimer()
		put(n)
		b.StartTimer()
		m, _, _ = r.read(cfg, "", nil)
		if len(m.Certificates("dev")) != n+1 {
			b.Fatal(len(m.Certificates("dev")))
		}
	}
}
