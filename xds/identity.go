package xds

import (
	"context"
	"fmt"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waggle-lb/waggle/xds/identity"
)

// proxyID is who a proxy is.
type proxyID struct {
	nodeID     string
	collection string
	instance   string // may be empty
	version    string // Envoy's
}

// identify is the one place that decides which collection a proxy belongs to. The node
// ID names it: `dev`, or `dev/<instance>`, split at the first slash; what the guard at the
// door found out about the client, in ctx, must allow that.
func identify(ctx context.Context, node *core.Node) (proxyID, error) {
	proved, err := identity.FromContext(ctx)
	if err != nil {
		return proxyID{}, err
	}
	id := node.GetId()
	if id == "" {
		return proxyID{}, status.Error(codes.InvalidArgument,
			"the first message has no node ID; start Envoy with a node.id of the form COLLECTION or COLLECTION/INSTANCE")
	}
	if len(id) > maxNodeID {
		return proxyID{}, status.Errorf(codes.InvalidArgument, "the node ID is longer than %d bytes", maxNodeID)
	}
	if err := proved.Check(id); err != nil {
		return proxyID{}, err
	}
	collection, instance, _ := strings.Cut(id, "/")
	return proxyID{nodeID: id, collection: collection, instance: instance, version: envoyVersion(node)}, nil
}

// maxNodeID is a bound for what a proxy may have us keep and log.
const maxNodeID = 512

func unknownCollection(id proxyID) error {
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
