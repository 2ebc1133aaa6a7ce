package secrets

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
)

// ProvidersFile is where a control plane keeps what OpenID providers said, in its state
// directory: one that starts while a provider is away goes on as before. Nothing in it
// is secret.
const ProvidersFile = "openid-providers.json"

// maxRemembered bounds what is read of it, in bytes.
const maxRemembered = 4 << 20

// remembered reads what was kept in a directory. Without a directory, and before the
// first time, that is nothing.
func remembered(dir string) (map[string]Provider, error) {
	if dir == "" {
		return nil, nil
	}
	file := filepath.Join(dir, ProvidersFile)
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what OpenID providers said: %w", err)
	}
	defer f.Close()
	var all map[string]Provider
	if err := json.NewDecoder(io.LimitReader(f, maxRemembered)).Decode(&all); err != nil {
		return nil, fmt.Errorf("read what OpenID providers said from %s: %w; remove it, and they are asked anew", file, err)
	}
	maps.DeleteFunc(all, func(_ string, p Provider) bool { // by whoever wrote it
		return !endpoint(p.Authorization) || !endpoint(p.Token) || p.EndSession != "" && !endpoint(p.EndSession)
	})
	return all, nil
}

// remember keeps it, whole or not at all.
func remember(dir string, all map[string]Provider) error {
	raw, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("keep what OpenID providers said: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep what OpenID providers said: %w", err)
	}
	f, err := os.CreateTemp(dir, "."+ProvidersFile+"-*")
	if err != nil {
		return fmt.Errorf("keep what OpenID providers said: %w", err)
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, ProvidersFile))
	}
	if err != nil {
		return fmt.Errorf("keep what OpenID providers said: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
