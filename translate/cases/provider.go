package cases

import "github.com/waggle-lb/waggle/secrets"

// Issuer is the OpenID provider of the cases. Nobody asks it: Answers is what it would
// say, and where requests are sent, a provider on this machine stands in for it.
const Issuer = "https://id.example.com"

// Answers is what is known of the providers of the cases.
func Answers() map[string]secrets.Answer {
	return map[string]secrets.Answer{Issuer: {Known: true, Provider: secrets.Provider{
		Authorization: Issuer + "/login", Token: Issuer + "/token", EndSession: Issuer + "/logout",
	}}}
}
