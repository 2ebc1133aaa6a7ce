package secrets

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func TestInventory(t *testing.T) {
	f := newForge(t)
	r, cfg, dir := onDate(t)
	mounted := t.TempDir()
	cfg.Collections["prod"].Certificates.Secrets = []string{"shop_cert", "shop_key", "users"}
	one, key := f.site("site.example.com", "one")
	shop, shopKey := f.site("shop.example.com", "shop")
	put(t, filepath.Join(mounted, "shop_cert"), shop)
	put(t, filepath.Join(mounted, "shop_key"), shopKey)
	put(t, filepath.Join(mounted, "users"), "alice:x")
	put(t, filepath.Join(dir, "site.pem"), one+key)
	put(t, filepath.Join(dir, "lone.pem"), shop)
	now := today
	v := NewInventory(func() time.Time { return now })
	take := func() []Certificate {
		m, _, _ := r.read(cfg, mounted, nil)
		v.Take(m)
		return v.Certificates()
	}
	leaf := f.template()
	want := func(host string) Certificate {
		return Certificate{Hosts: []string{host}, Issuer: "Test intermediate", Serial: "7", NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter}
	}
	site, store := want("site.example.com"), want("shop.example.com")
	site.Collection, site.Source, site.Name = "dev", "directory", "site.pem"
	store.Collection, store.Source, store.Name = "prod", "secret", "shop_cert"
	lone := Certificate{Collection: "dev", Source: "directory", Name: "lone.pem", Error: "the file lone.pem is a certificate, and no file beside it holds its key"}
	require.Equal(t, []Certificate{lone, site, store}, take())
	require.Equal(t, []Certificate{lone, site, store}, take())

	now = now.Add(time.Hour)
	two, twoKey := f.site("site.example.com", "two")
	put(t, filepath.Join(dir, "site.pem"), two+twoKey)
	site.Rotated = now
	require.Equal(t, []Certificate{lone, site, store}, take())
	now = now.Add(time.Hour)
	put(t, filepath.Join(dir, "site.pem"), two)
	site.Kept = "the file site.pem holds a certificate and no key"
	require.Equal(t, []Certificate{lone, site, store}, take(), "it is still the one of an hour ago")

	require.Equal(t, strings.TrimSpace(`
waggle_certificate_expiry_seconds certificate=shop_cert collection=prod source=secret 1778846400
waggle_certificate_expiry_seconds certificate=site.pem collection=dev source=directory 1778846400
waggle_certificate_rotated_seconds certificate=site.pem collection=dev source=directory 1773579600
waggle_certificates_broken collection=dev served=kept 1
waggle_certificates_broken collection=dev served=refused 1
waggle_certificates_broken collection=prod served=kept 0
waggle_certificates_broken collection=prod served=refused 0`), gather(t, v))
	v.Take((*Material)(nil).WithFetched(map[string]Fetched{"dev": {Content: map[string]Bytes{"brought": Hide([]byte(shop + shopKey))}}}).WithLocal(testAuthority(t)))
	all := v.Certificates()
	require.Len(t, all, 2)
	require.Equal(t, "local", all[0].Source)
	require.Contains(t, all[0].Name, "Waggle development authority")
	require.Equal(t, "brought", all[1].Name)
	v.Take(nil)
	require.Empty(t, v.Certificates())
}

// gather is metrics as text, one series a line.
func gather(t *testing.T, c prometheus.Collector) string {
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(c))
	families, err := registry.Gather()
	require.NoError(t, err)
	var lines []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			line := f.GetName()
			for _, l := range m.GetLabel() {
				line += " " + l.GetName() + "=" + l.GetValue()
			}
			lines = append(lines, fmt.Sprintf("%s %.0f", line, m.GetGauge().GetValue()))
		}
	}
	return strings.Join(lines, "\n")
}
