package translate_test

import (
	"encoding/base64"
	"encoding/json"
	"testing"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/cases"
	"github.com/waggle-lb/waggle/translate/render"
	"github.com/waggle-lb/waggle/watcher"
)

// What guards put into resources reaches proxies, and nobody who looks.
func TestWhatGuardsKnowIsNotShown(t *testing.T) {
	labels := func(l map[string]string) map[string]string {
		out := map[string]string{"lb.port": "80"}
		for k, v := range l {
			out["lb."+k] = v
		}
		return out
	}
	const hash, key, bad, client = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "7d1b36f0c2", "$2y$05$hiddenhiddenhidden", "0b1f6f25c1"
	p := &watcher.Picture{
		Static: true,
		Services: map[string]*watcher.Service{
			"1": {ID: "1", Name: "a", Replicas: 1, Mode: watcher.Replicated, Labels: labels(map[string]string{"hosts": "a.test", "basic_auth": "users", "api_keys": "keys"})},
			"2": {ID: "2", Name: "b", Replicas: 1, Mode: watcher.Replicated, Labels: labels(map[string]string{"hosts": "b.test", "basic_auth": "bad"})},
			"3": {ID: "3", Name: "c", Replicas: 1, Mode: watcher.Replicated, Labels: labels(map[string]string{"hosts": "c.test", "api_keys": "pasted " + key})},
			"4": {ID: "4", Name: "d", Replicas: 1, Mode: watcher.Replicated, Labels: labels(map[string]string{"hosts": "d.test", "oidc_issuer": cases.Issuer, "oidc_client_id": "shop", "oidc_client_secret": "client"})},
			"5": {ID: "5", Name: "e", Replicas: 1, Mode: watcher.Replicated, Labels: labels(map[string]string{"hosts": "e.test", "oidc_issuer": cases.Issuer, "oidc_client_id": "shop", "oidc_client_secret": "pasted " + client})},
		},
		Configs: map[string]*watcher.Config{
			"users":  {ID: "users", Name: "users", Data: []byte("alice:" + hash + "\n")},
			"keys":   {ID: "keys", Name: "keys", Data: []byte("partner:" + key + "\n")},
			"client": {ID: "client", Name: "client", Data: []byte(client)},
			"bad":    {ID: "bad", Name: "bad", Data: []byte("alice:" + bad + "\n")},
		},
	}
	b := translate.Build(translate.Input{Picture: p, Config: config.ForCollections(nil), Material: (*secrets.Material)(nil).With(cases.Answers())})
	res := b.Resources("default")
	body := string(res[translate.Routes]["http"].Body)
	require.Contains(t, body, hash, "proxies know")
	require.Contains(t, body, key)
	require.NotContains(t, body, bad)
	require.NotContains(t, body, client, "it comes by SDS")
	sds := string(res[translate.Secret]["oidc/d/client"].Body)
	require.Contains(t, sds, client)
	session := string(res[translate.Secret]["oidc/d/session"].Message.(*tlsv3.Secret).GetGenericSecret().Secret.GetInlineBytes())
	require.Len(t, session, 64)

	tree, err := render.Tree(res, render.Shown...)
	require.NoError(t, err)
	shown, err := json.Marshal(map[string]any{"tree": tree, "problems": b.Problems(), "services": b.Services()})
	require.NoError(t, err)
	for _, secret := range []string{hash, key, bad, client, session, base64.StdEncoding.EncodeToString([]byte(client))} {
		require.NotContains(t, string(shown), secret)
	}
	require.Contains(t, string(shown), "is in bcrypt")
}
