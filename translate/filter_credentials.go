package translate

import (
	"fmt"

	apikeyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/api_key_auth/v3"
	basicauthv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/basic_auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-lb/waggle/translate/labels"
)

// Nobody is the user of the basic_auth filter in every listener: no credential, though it
// stands in a field for them.
const Nobody = "nobody:{SHA}AAAAAAAAAAAAAAAAAAAAAAAAAAA="

// basicAuth is basic_auth. Envoy knows one form of password, {SHA}.
var basicAuth = &httpFilter{
	name: "basic_auth", guard: true,
	chain: func() proto.Message {
		// The listener is refused without a user. This one has no password: its hash is
		// twenty zero bytes, and nobody knows what hashes to them. No route uses it.
		return &basicauthv3.BasicAuth{Users: inline(Nobody)}
	},
	on: func(r *route) (validator, error) {
		name := r.label.BasicAuth
		if name == "" {
			return nil, nil
		}
		data, err := r.credentials("basic_auth", name)
		if err != nil {
			return nil, err
		}
		users, err := htpasswd(data)
		if err != nil {
			return nil, errorAt("basic_auth", "make the lines with `htpasswd -s`", "%s: %v", name, err)
		}
		return &basicauthv3.BasicAuthPerRoute{Users: inline(users)}, nil
	},
}

// apiKeys is api_keys: a key stands in X-Api-Key, or as Bearer in Authorization.
var apiKeys = &httpFilter{
	name: "api_keys", guard: true,
	chain: func() proto.Message { return &apikeyv3.ApiKeyAuth{} },
	on: func(r *route) (validator, error) {
		name := r.label.APIKeys
		if name == "" {
			return nil, nil
		}
		data, err := r.credentials("api_keys", name)
		if err != nil {
			return nil, err
		}
		keys, err := apiKeyList(data)
		if err != nil {
			return nil, errorAt("api_keys", "write one key a line, or `client:key`", "%s: %v", name, err)
		}
		per := &apikeyv3.ApiKeyAuthPerRoute{KeySources: []*apikeyv3.KeySource{{Header: "X-Api-Key"}, {Header: "Authorization"}}}
		for _, k := range keys {
			per.Credentials = append(per.Credentials, &apikeyv3.Credential{Client: k.client, Key: k.key})
		}
		return per, nil
	},
}

// keySet is the JSON Web Key Set of a secret or config.
func (r *route) keySet(key, name string) (string, error) {
	data, err := r.credentials(key, name)
	if err != nil {
		return "", err
	}
	keys, err := webKeys(data)
	if err != nil {
		return "", errorAt(key, "write a JSON Web Key Set with public keys: {\"keys\": […]}", "%s: %v", name, err)
	}
	return keys, nil
}

// credentials is the content of the secret, config or file that a key names.
func (r *route) credentials(key, name string) ([]byte, error) {
	item, err := r.material(key, name)
	switch {
	case err != nil:
		return nil, err
	case item.Assumed:
		return nil, &labelError{key: key, reason: fmt.Sprintf("the content of the %s %s is not known here", item.Kind, item.Name), assumed: true}
	}
	if item.Kept != "" {
		p := r.problem(labels.Warning, key, fmt.Sprintf("the %s %s cannot be read any more and is used as it was: %s", item.Kind, item.Name, item.Kept))
		p.Hint = "put the file right where the control plane reads it"
		r.svc.problems = append(r.svc.problems, p)
	}
	return item.Data.Reveal(), nil
}
