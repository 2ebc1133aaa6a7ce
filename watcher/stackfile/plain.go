package stackfile

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/waggle-lb/waggle/watcher"
)

// ofSwarm are keys of deploy that only a Swarm reads.
var ofSwarm = []string{"labels", "mode", "placement", "endpoint_mode", "update_config", "rollback_config"}

// isPlain reports whether a file is a Compose project for a plain Docker, not a
// stack of a Swarm: it is called as Compose looks for it, has labels on its
// containers, and says nothing under deploy that only a Swarm reads. Many stacks are
// called docker-compose.yml too; that tells them apart.
func isPlain(file string, dict map[string]any) bool {
	base, _, _ := strings.Cut(filepath.Base(file), ".")
	if base != "docker-compose" && base != "compose" {
		return false
	}
	labelled := false
	services, _ := dict["services"].(map[string]any)
	for _, e := range services {
		service, _ := e.(map[string]any)
		deploy, _ := service["deploy"].(map[string]any)
		if slices.ContainsFunc(ofSwarm, func(key string) bool { return deploy[key] != nil }) {
			return false
		}
		labelled = labelled || service["labels"] != nil
	}
	return labelled
}

// onPlainDocker makes of a service what it is without a Swarm.
func (s *stack) onPlainDocker(svc *watcher.Service, name string, c types.ServiceConfig) {
	svc.Plain = true
	svc.Labels, svc.ContainerLabels = s.labels(c.Labels), nil
	svc.EndpointMode = "dnsrr" // there are no virtual addresses
	for i := range svc.Ports {
		svc.Ports[i].HostMode = true
	}
	if c.Scale != nil && *c.Scale >= 0 && (c.Deploy == nil || c.Deploy.Replicas == nil) {
		svc.Replicas = uint64(*c.Scale)
	}
	if c.Deploy != nil && len(c.Deploy.Labels) > 0 {
		s.report(Finding{
			Severity: Warning, Line: s.line("services", name, "deploy", "labels"),
			Reason: "a plain Docker does not read deploy.labels", Hint: "move them under `labels:` of the service",
		}, name)
	}
}
