package labels

import (
	"strings"
	"testing"
)

func TestOpenIDValues(t *testing.T) {
	const (
		query  = "has a query or a fragment, which no issuer has"
		name   = "register the application under a name of letters, digits and `-._~:/@`"
		scopes = "write scopes such as `profile, email`"
	)
	read(t, issuer, []reading{
		{text: "https://id.example.com/realms/a/", want: "https://id.example.com/realms/a/"},
		{text: " https://ID.example.com:8443 ", want: "https://ID.example.com:8443"},
		{text: "id.example.com", reason: "is not an http or https URL", hint: "write a URL such as `https://www.example.com`"},
		{text: "https://id.example.com/?x=1", reason: query, hint: "write `https://id.example.com/`"},
		{text: "https://id.example.com#x", reason: query, hint: "write `https://id.example.com`"},
		{text: "https://u:p@id.example.com", reason: "has credentials in it", hint: "write a URL such as `https://www.example.com`"},
		{text: "https://id.example.com/a/.well-known/openid-configuration", reason: "is where the issuer's document is, and not the issuer", hint: "write `https://id.example.com/a`"},
		{text: "https://id.example.com/" + strings.Repeat("a", 1024), reason: "is 1047 bytes long, and at most 1024 are taken", hint: "write a shorter URL"},
	})
	read(t, clientName, []reading{
		{text: " urn:shop@example.com/a_b~c-d.e ", want: "urn:shop@example.com/a_b~c-d.e"},
		{text: " ", reason: "has 0 letters, and 1 to 255 are taken", hint: "write the client's name as the provider shows it"},
		{text: strings.Repeat("a", 256), reason: "has 256 letters, and 1 to 255 are taken", hint: "write the client's name as the provider shows it"},
		{text: "my shop", reason: `" " is nothing that the proxies can send in a client's name`, hint: name},
		{text: "sh\u00f6p", reason: `"\xc3" is nothing that the proxies can send in a client's name`, hint: name},
	})
	read(t, scope, []reading{
		{text: "https://graph.example.com/.default", want: "https://graph.example.com/.default"},
		{text: `a"b`, reason: "is no scope", hint: scopes},
		{text: "a b", reason: "is no scope", hint: scopes},
	})
}
