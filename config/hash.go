package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Hash names the content of the configuration: equal for equal ones, in any
// replica. The admin token and the order of the collections are no part of it.
func (c *Config) Hash() string {
	h := sha256.New()
	text, _ := json.Marshal(c) // cannot fail: text, numbers and booleans; maps are written sorted
	h.Write(text)
	for _, name := range slices.Sorted(maps.Keys(c.Collections)) {
		fmt.Fprintf(h, "%q %v", name, c.Collections[name].Fleet) // %v writes maps sorted
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
