package translate

import (
	"maps"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	jwtName = "jwt"

	// jwksLifetime is how long a fetched set of keys is used before it is fetched again.
	jwksLifetime = 5 * time.Minute
	jwksTimeout  = 5 * time.Second
)

// jwt is jwt_issuer, jwt_jwks and jwt_audiences. The providers of all routes of a
// collection are one discovered resource: keys that were fetched would else be
// fetched again whenever any host of the table changes (envoy-xds.md §6). Each is
// checked by itself before it joins the others. A route whose provider is not
// there answers 403.
var jwt = &httpFilter{
	name: jwtName, guard: true,
	shared: func(entries map[string]proto.Message) proto.Message {
		all := &jwtv3.JwtAuthentication{Providers: map[string]*jwtv3.JwtProvider{}, RequirementMap: map[string]*jwtv3.JwtRequirement{}}
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			all.Providers[name] = entries[name].(*jwtv3.JwtProvider)
			all.RequirementMap[name] = &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_ProviderName{ProviderName: name}}
		}
		return all
	},
	on: func(r *route) (validator, error) {
		l := r.label
		switch {
		case l.JWTIssuer == "" && l.JWTKeys == "":
			return nil, r.needs("jwt_audiences", "jwt_issuer")
		case l.JWTIssuer == "":
			return nil, errorAt("jwt_issuer", "name who issues the tokens: what stands in them as `iss`", "is missing beside %s", r.key("jwt_jwks"))
		case l.JWTKeys == "":
			return nil, errorAt("jwt_jwks", "write the URL of the issuer's keys, or the name of a config or secret that holds them", "is missing beside %s", r.key("jwt_issuer"))
		}
		if l.BasicAuth != "" {
			return nil, errorAt("jwt_issuer", "give one of them to a route of its own",
				"%s is there too, and both look into Authorization: no request could pass", r.key("basic_auth"))
		}
		p := &jwtv3.JwtProvider{
			Issuer: l.JWTIssuer, Audiences: l.JWTAudiences, Forward: true,
			FromHeaders: []*jwtv3.JwtHeader{{Name: "Authorization", ValuePrefix: "Bearer "}},
		}
		if strings.Contains(l.JWTKeys, "://") {
			e, ok := externalNamed(l.JWTKeys)
			if !ok {
				return nil, errorAt("jwt_jwks", "write a URL such as `https://id.example.com/keys`", "is not an http or https URL")
			}
			if why := r.svc.b.refusedServer(e); why != "" {
				return nil, errorAt("jwt_jwks", "write the URL of a server that the proxies may reach, or put the keys into a config", "the server is refused: %s", why)
			}
			r.refs = append(r.refs, e.cluster())
			p.JwksSourceSpecifier = &jwtv3.JwtProvider_RemoteJwks{RemoteJwks: &jwtv3.RemoteJwks{
				HttpUri: &corev3.HttpUri{
					Uri:              l.JWTKeys,
					HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: e.cluster()},
					Timeout:          durationpb.New(jwksTimeout),
				},
				CacheDuration: durationpb.New(jwksLifetime),
			}}
		} else {
			keys, err := r.keySet("jwt_jwks", l.JWTKeys)
			if err != nil {
				return nil, err
			}
			p.JwksSourceSpecifier = &jwtv3.JwtProvider_LocalJwks{LocalJwks: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: keys}}}
		}
		if err := p.ValidateAll(); err != nil {
			return nil, errorAt("jwt_jwks", "write another value, shorter and of plain letters", "Envoy would refuse it: %v", err)
		}
		name := routeKey(r)
		r.share(jwtName, p)
		return &jwtv3.PerRouteConfig{RequirementSpecifier: &jwtv3.PerRouteConfig_RequirementName{RequirementName: name}}, nil
	},
	// The name of the provider is the route's own.
	identity: func(r *route) string { return string(mustEncode(r.shares[jwtName])) },
}
