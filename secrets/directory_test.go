package secrets

import (
	"crypto/elliptic"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets/ca"
	"github.com/waggle-lb/waggle/watcher"
)

// site makes a certificate for a host with a key of a name, and its key.
func (f *forge) site(host, key string) (cert, keyText string) {
	k := ec(elliptic.P256(), key)
	return f.leaf(k.Public(), func(c *x509.Certificate) { c.DNSNames = []string{host} }) + certPEM(f.intermediate), keyPEM(f.t, k)
}

// put writes a file, and the directories above it.
func put(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

// told is what a material says about a collection's certificates, in lines.
func told(m *Material, collection string) string {
	var lines []string
	for _, n := range m.Certificates(collection) {
		switch {
		case n.Err != nil:
			lines = append(lines, n.Name+" refused: "+n.Err.Error())
		case n.Kept != "":
			lines = append(lines, n.Name+" kept: "+strings.Join(n.Pair.Names, " ")+" serial "+n.Pair.Serial+": "+n.Kept)
		default:
			lines = append(lines, n.Name+" serves: "+strings.Join(n.Pair.Names, " ")+" serial "+n.Pair.Serial)
		}
	}
	return strings.Join(lines, "\n")
}

// dated is a reader whose clock is set, so that files count at once.
func onDate(t *testing.T) (r *reader, cfg *config.Config, dir string) {
	cfg, dir, _ = two(t)
	r = newReader(0)
	r.now = func() time.Time { return today }
	return r, cfg, dir
}

func TestCertificatesAreFoundByWhatTheyHold(t *testing.T) {
	f := newForge(t)
	r, cfg, dir := onDate(t)
	a, aKey := f.site("a.example.com", "a")
	b, bKey := f.site("b.example.com", "b")
	c, cKey := f.site("c.example.com", "c")
	d, _ := f.site("d.example.com", "d")
	put(t, filepath.Join(dir, "a.crt"), a)
	put(t, filepath.Join(dir, "unlike"), aKey)
	put(t, filepath.Join(dir, "both.pem"), bKey+b)
	put(t, filepath.Join(dir, "lonely.pem"), d)
	put(t, filepath.Join(dir, "ca.pem"), certPEM(f.root)+certPEM(f.intermediate))
	put(t, filepath.Join(dir, "users"), "alice:x")
	put(t, filepath.Join(dir, "empty"), "")
	put(t, filepath.Join(dir, "cut.pem"), strings.TrimSpace(a)[:len(a)-30])
	// Those of sub-directories have their keys beside them.
	put(t, filepath.Join(dir, "site", "tls.crt"), c)
	put(t, filepath.Join(dir, "site", "tls.key"), cKey)
	put(t, filepath.Join(dir, "deep", "er", "x.pem"), b+bKey)
	put(t, filepath.Join(dir, "deep", "er", "est", "y.pem"), b+bKey)
	put(t, filepath.Join(dir, ".hidden", "z.pem"), b+bKey)
	put(t, filepath.Join(dir, "other", "d.key"), aKey)

	m, _, _ := r.read(cfg, "", nil)
	require.Equal(t, strings.TrimSpace(`
a.crt serves: a.example.com serial 7
both.pem serves: b.example.com serial 7
cut.pem refused: the file cut.pem has a certificate that is cut off (the 2nd of 2): its END line is missing
deep-er-x.pem serves: b.example.com serial 7
lonely.pem refused: the file lonely.pem is a certificate, and no file beside it holds its key
site-tls.crt serves: c.example.com serial 7`), told(m, "dev"))
	require.Empty(t, m.Certificates("prod"))
	require.Empty(t, m.Certificates("nowhere"))
	i, err := Find(&watcher.Picture{}, m, "dev", "", "site-tls.crt")
	require.NoError(t, err, "labels may name them so")
	require.Equal(t, c, string(i.Data.Reveal()))

	again, _, _ := r.read(cfg, "", nil)
	require.True(t, m.Equal(again))
	for n, p := range again.Certificates("dev") {
		require.Same(t, m.Certificates("dev")[n].Pair, p.Pair, "and nothing is checked twice")
	}
	var none *Material
	require.Empty(t, none.Certificates("dev"))
	require.Zero(t, none.At())
	require.Nil(t, none.Local())
}

// A certificate that is broken by a change is served as it was, until a whole one comes.
func TestABrokenVersionKeepsTheOneBefore(t *testing.T) {
	f := newForge(t)
	r, cfg, dir := onDate(t)
	numbered := func(serial int64, key string) (string, string) {
		k := ec(elliptic.P256(), key)
		return f.leaf(k.Public(), func(c *x509.Certificate) { c.SerialNumber.SetInt64(serial) }), keyPEM(t, k)
	}
	cert, key := filepath.Join(dir, "site.crt"), filepath.Join(dir, "site.key")
	one, oneKey := numbered(1, "one")
	two, twoKey := numbered(2, "two")
	three, threeKey := numbered(3, "three")
	expired := f.leaf(ec(elliptic.P256(), "one").Public(), func(c *x509.Certificate) { c.NotAfter = today.AddDate(0, 0, -1) })
	becomes := func(want string) {
		t.Helper()
		m, _, _ := r.read(cfg, "", nil)
		require.Equal(t, want, told(m, "dev"))
		// A label that names both is told the same.
		item := func(name string) Item {
			i, err := Find(&watcher.Picture{}, m, "dev", "", name)
			require.NoError(t, err)
			return i
		}
		pair, findings, err := ReadPair(item("site.crt"), item("site.key"), m.At())
		switch _, why, kept := strings.Cut(want, "kept: site.example.com serial "); {
		case strings.Contains(want, "refused"):
			require.Error(t, err)
		case kept:
			require.NoError(t, err)
			require.Equal(t, why, pair.Serial+": "+pair.Kept)
			require.Contains(t, findings[0].Text, "what was there before stays in service, until 2026-05-15")
		default:
			require.NoError(t, err)
			require.Empty(t, pair.Kept)
			require.Contains(t, want, "serial "+pair.Serial)
		}
	}
	const served, kept = "site.crt serves: site.example.com serial ", "site.crt kept: site.example.com serial "
	put(t, cert, one)
	put(t, key, oneKey)
	becomes(served + "1")

	put(t, cert, two) // its key comes a moment later
	becomes(kept + "1: the file site.key holds a key that does not belong to the file site.crt")
	put(t, key, twoKey)
	becomes(served + "2")
	put(t, key, threeKey) // or before it
	becomes(kept + "2: the file site.key holds a key that does not belong to the file site.crt")
	put(t, cert, three)
	becomes(served + "3")

	for _, broken := range []struct{ cert, key, why string }{
		{"garbage", threeKey, "the file site.crt holds nothing in PEM form"},
		{"more garbage", threeKey, "the file site.crt holds nothing in PEM form"},
		{one, threeKey, "the file site.key holds a key that does not belong to the file site.crt"},
		{two, threeKey, "the file site.key holds a key that does not belong to the file site.crt"},
		{two, oneKey, "the file site.key holds a key that does not belong to the file site.crt"},
		{expired, oneKey, "the file site.crt ended on 2026-03-14"},
		{three, "", "the file site.key is empty"},
		{"", "", "the file site.crt is empty"},
		{two[:300], "x", "the file site.crt has a certificate that is cut off: its END line is missing"},
	} {
		put(t, cert, broken.cert)
		put(t, key, broken.key)
		becomes(kept + "3: " + broken.why)
	}
	put(t, cert, one)
	put(t, key, oneKey)
	becomes(served + "1")
	require.NoError(t, os.Remove(cert))
	m, _, _ := r.read(cfg, "", nil)
	require.Empty(t, told(m, "dev"), "what is taken away is gone")
	put(t, cert, "garbage")
	m, _, _ = r.read(cfg, "", nil)
	require.Empty(t, told(m, "dev"), "and does not come back")
}

func TestBrokenAuthoritiesStayInForce(t *testing.T) {
	f := newForge(t)
	r, cfg, dir := onDate(t)
	read := func() (int, []Finding, error) {
		m, _, _ := r.read(cfg, "", nil)
		i, err := Find(&watcher.Picture{}, m, "dev", "", "clients.pem")
		require.NoError(t, err)
		_, n, findings, err := ReadAuthorities(i, m.At())
		return n, findings, err
	}
	put(t, filepath.Join(dir, "clients.pem"), certPEM(f.root)+certPEM(f.intermediate)+certPEM(f.root))
	n, findings, err := read()
	require.NoError(t, err)
	require.Empty(t, findings)
	require.Equal(t, 2, n, "each once")
	put(t, filepath.Join(dir, "clients.pem"), certPEM(f.root)[:200])
	n, findings, err = read()
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, "the file clients.pem has a certificate that is cut off: its END line is missing: what was there before stays in force", findings[0].Text)
	put(t, filepath.Join(dir, "clients.pem"), certPEM(f.root))
	n, findings, err = read()
	require.NoError(t, err)
	require.Empty(t, findings)
	require.Equal(t, 1, n)
}

func TestReadAuthoritiesSaysWhatIsWrong(t *testing.T) {
	f := newForge(t)
	ended := f.authority("Ended")
	ended.NotAfter = today.Add(-time.Hour)
	gone := certPEM(f.sign(ended, ended, f.rootKey.Public(), f.rootKey))
	soon := f.authority("Soon \x1b[0m")
	soon.NotAfter = today.AddDate(0, 0, 3)
	near := certPEM(f.sign(soon, soon, f.rootKey.Public(), f.rootKey))
	for text, want := range map[string]string{
		"":                                    "is empty",
		"x":                                   "holds nothing in PEM form",
		keyPEM(t, f.siteKey):                  "holds no certificate: it is a private key",
		block("X509 CRL", []byte("x")):        "holds no certificate: it holds a list of revoked certificates",
		f.leaf(f.siteKey.Public(), nil):       "holds no certificate of an authority",
		gone:                                  "holds only authorities that have ended",
		block("CERTIFICATE", []byte("x")):     "has a certificate that cannot be read",
		strings.Repeat(certPEM(f.root), 1001): "holds 1001 certificates or keys, and at most 1000 are read",
	} {
		_, _, _, err := ReadAuthorities(Item{Kind: Config, Name: "c", Data: Hide([]byte(text))}, today)
		require.EqualError(t, err, "the config c "+want)
		require.NotEmpty(t, err.(*Refusal).Hint())
	}
	_, n, findings, err := ReadAuthorities(Item{Kind: Config, Name: "c", Data: Hide([]byte(gone + near + keyPEM(t, f.rootKey)))}, today)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	var texts []string
	for _, f := range findings {
		texts = append(texts, f.Text)
	}
	require.Equal(t, []string{
		"the config c also holds a private key, which nobody needs there",
		"the config c: the authority Soon ?[0m ends on 2026-03-18",
		"the config c holds 1 that have ended, and they are left out",
	}, texts)
}

// certbot keeps links to what is in force beside every version that there was.
func TestCertbot(t *testing.T) {
	f := newForge(t)
	r, cfg, top := onDate(t)
	renew := func(n string) {
		t.Helper()
		cert, key := f.site("site.example.com", "key"+n)
		leaf, inter, _ := strings.Cut(cert, "-----END CERTIFICATE-----\n")
		for name, text := range map[string]string{"cert": leaf + "-----END CERTIFICATE-----\n", "chain": inter, "fullchain": cert, "privkey": key} {
			put(t, filepath.Join(top, "archive", "site.example.com", name+n+".pem"), text)
			link := filepath.Join(top, "live", "site.example.com", name+".pem")
			require.NoError(t, os.MkdirAll(filepath.Dir(link), 0o755))
			_ = os.Remove(link)
			require.NoError(t, os.Symlink("../../archive/site.example.com/"+name+n+".pem", link))
		}
	}
	put(t, filepath.Join(top, "accounts", "host", "private_key.json"), "{}")
	put(t, filepath.Join(top, "live", "README"), "hello")
	put(t, filepath.Join(top, "cli.ini"), "x")
	renew("1")
	m, errs, _ := r.read(cfg, "", nil)
	require.Empty(t, errs)
	require.Equal(t, "site.example.com-fullchain.pem serves: site.example.com serial 7", told(m, "dev"))
	before := m.Certificates("dev")[0].Pair
	require.NotContains(t, m.shelves["dev"].files, "cli.ini")
	renew("2")
	m, errs, _ = r.read(cfg, "", nil)
	require.Empty(t, errs)
	require.Equal(t, "site.example.com-fullchain.pem serves: site.example.com serial 7", told(m, "dev"))
	require.False(t, before.Key.Equal(m.Certificates("dev")[0].Pair.Key))

	// The directory of the links alone does not hold what they lead to.
	for _, dir := range []string{filepath.Join(top, "live"), filepath.Join(top, "live", "site.example.com")} {
		cfg.Collections["dev"].Certificates.Directories = []string{dir}
		m, errs, _ = r.read(cfg, "", nil)
		require.Len(t, errs, 4)
		require.ErrorContains(t, errs[0], "cert.pem: is a link that leads out of its directory: name a directory that holds what it leads to as well")
		require.Empty(t, told(m, "dev"))
	}
}

// Kubernetes and its like replace all files of a volume at once, by a link.
func TestMountedVolume(t *testing.T) {
	f := newForge(t)
	r, cfg, top := onDate(t)
	dir := filepath.Join(top, "site")
	swap := func(n string) {
		t.Helper()
		cert, key := f.site("site.example.com", "key"+n)
		put(t, filepath.Join(dir, "..v"+n, "tls.crt"), cert)
		put(t, filepath.Join(dir, "..v"+n, "tls.key"), key)
		require.NoError(t, os.Symlink("..v"+n, filepath.Join(dir, "..tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
	}
	swap("1")
	for _, name := range []string{"tls.crt", "tls.key"} {
		require.NoError(t, os.Symlink("..data/"+name, filepath.Join(dir, name)))
	}
	m, errs, _ := r.read(cfg, "", nil)
	require.Empty(t, errs)
	require.Equal(t, "site-tls.crt serves: site.example.com serial 7", told(m, "dev"))
	before := m.Certificates("dev")[0].Pair
	swap("2")
	m, _, _ = r.read(cfg, "", nil)
	require.Equal(t, "site-tls.crt serves: site.example.com serial 7", told(m, "dev"))
	require.False(t, before.Key.Equal(m.Certificates("dev")[0].Pair.Key))
}

// A certificate is checked as of the last instant that made a difference, so that
// material in which nothing happens is the same.
func TestMaterialIsAsOfWhatMatters(t *testing.T) {
	f := newForge(t)
	r, cfg, dir := onDate(t)
	ends := today.Add(20*24*time.Hour + time.Hour)
	begins := today.Add(-time.Hour)
	cert := f.leaf(f.siteKey.Public(), func(c *x509.Certificate) { c.NotBefore, c.NotAfter = begins, ends })
	put(t, filepath.Join(dir, "site.pem"), cert+keyPEM(t, f.siteKey))
	day := 24 * time.Hour
	midnight := func(at time.Time) time.Time { return at.Truncate(day) }
	for _, c := range []struct {
		now, at, next time.Time
		want          string
	}{
		{begins.Add(-time.Second), midnight(today), begins, "refused: the file site.pem is valid only from 2026-03-15T11:00:00Z"},
		{begins, begins, midnight(today).Add(day), "serves"},
		{today, begins, midnight(today).Add(day), "serves"},
		{today.Add(day), midnight(today).Add(day), midnight(today).Add(2 * day), "serves"},
		{ends.Add(-Soon).Add(-time.Second), midnight(ends.Add(-Soon)), ends.Add(-Soon), "serves"},
		{ends.Add(-Soon), ends.Add(-Soon), midnight(ends.Add(-Soon)).Add(day), "soon"},
		{ends, midnight(ends), ends.Add(time.Second), "soon"},
		{ends.Add(time.Minute), ends.Add(time.Second), midnight(ends).Add(day), "refused: the file site.pem ended on 2026-04-04"},
	} {
		r.now = func() time.Time { return c.now }
		m, _, _ := r.read(cfg, "", nil)
		require.Equal(t, c.at, m.At(), c.now)
		require.Equal(t, c.next, r.next, c.now)
		p := m.Certificates("dev")[0]
		switch {
		case p.Err != nil:
			require.Equal(t, c.want, "refused: "+p.Err.Error())
		case len(p.Findings) > 0:
			require.Equal(t, "soon", c.want)
			require.Equal(t, "the file site.pem ends on 2026-04-04", p.Findings[0].Text)
		default:
			require.Equal(t, "serves", c.want, c.now)
		}
		r.now = func() time.Time { return c.next.Add(-time.Millisecond) }
		same, _, _ := r.read(cfg, "", nil)
		require.True(t, m.Equal(same))
		r.now = func() time.Time { return c.next }
		other, _, _ := r.read(cfg, "", nil)
		require.False(t, m.Equal(other))
	}
	late := (&Material{}).AsOf(today)
	require.Equal(t, today, late.At())
	of := Of(map[string][]Item{"dev": {{Kind: File, Name: "site.pem", Data: Hide([]byte(cert + keyPEM(t, f.siteKey)))}}})
	require.NoError(t, of.Certificates("dev")[0].Err, "dates do not count")
	require.Error(t, of.AsOf(ends.Add(time.Hour)).Certificates("dev")[0].Err)
	require.NoError(t, of.AsOf(today).Certificates("dev")[0].Err)
}

// The files of the development authority are nobody's certificates.
func TestTheAuthorityIsNoMaterial(t *testing.T) {
	state, mounted := t.TempDir(), t.TempDir()
	cfg, dir, _ := two(t)
	require.NoError(t, ca.InitLocal(filepath.Join(state, ca.LocalDirectory), time.Now()))
	cfg.Collections["dev"].Certificates.Directories = []string{dir, filepath.Join(state, ca.LocalDirectory), mounted}
	_, both, err := LocalFiles("", filepath.Join(state, ca.LocalDirectory))
	require.NoError(t, err)
	put(t, filepath.Join(mounted, LocalSecret), string(both))
	require.NoError(t, os.Link(filepath.Join(state, ca.LocalDirectory, ca.LocalKeyFile), filepath.Join(dir, "linked.key")))
	cfg.Collections["dev"].Certificates.Secrets = []string{LocalSecret}
	var last *Material
	w := NewWatch(cfg, Options{Mounted: mounted, State: state}, func(m *Material) { last = m })
	w.Look()
	require.NotNil(t, last.Local())
	require.Empty(t, last.shelves["dev"].files)
	require.Empty(t, last.shelves["dev"].secrets)
}
