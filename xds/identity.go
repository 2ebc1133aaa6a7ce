package xds

import (
	"context"
	"fmt"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// identity is who a proxy is.
type identity struct {
	nodeID     string
	collection string
	instance   string // may be empty
	version    string // Envoy's
}

// identify is the one place that decides which collection a proxy belongs to. The node
// ID names it: `dev`, or `dev/<instance>`, split at the first slash. (Once the channel
// has client certificates, the one in ctx must say the same.)
func identify(_ context.Context, node *core.Node) (identity, error) {
	id := node.GetId()
	if id == "" {
		return identity{}, status.Error(codes.InvalidArgument,
			"the first message has no node ID; start Envoy with a node.id of the form COLLECTION or COLLECTION/INSTANCE")
	}
	if len(id) > maxNodeID {
		return identity{}, status.Errorf(codes.InvalidArgument, "the node ID is longer than %d bytes", maxNodeID)
	}
	collection, instance, _ := strings.Cut(id, "/")
	return identity{nodeID: id, collection: collection, instance: instance, version: envoyVersion(node)}, nil
}

// maxNodeID is a bound for what a proxy may have us keep and log.
const maxNodeID = 512

func unknownCollection(id identity) error {
	return status.Errorf(codes.NotFound,
		"collection %q (from node ID %q) is not served here; add it to `collections` in waggle.yml or correct the proxy's node.id",
		clip(id.collection), clip(id.nodeID))
}

// envoyVersion is the version that a proxy gives, such as "1.40.0"; "" if it gives none.
func envoyVersion(node *core.Node) string {
	if v := node.GetUserAgentBuildVersion().GetVersion(); v != nil {
		return fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
	}
	return clip(node.GetUserAgentVersion())
}

// clip shortens text that came from outside, for messages.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
