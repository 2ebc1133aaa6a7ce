package translate

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	setmetadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_metadata/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The access log stands in the listener, which no label changes. So a route that
// says otherwise than the collection marks its requests, by one of these two, and
// the log looks for the mark (logged). A filter without an own message per route
// can only be switched on as it stands in the chain: hence two.
var (
	logOn  = logMark("access_log", true)
	logOff = logMark("no_access_log", false)
)

// Where requests carry the mark.
const (
	logMetadata = "waggle.access_log"
	logKey      = "on"
)

func logMark(name string, on bool) *httpFilter {
	return &httpFilter{
		name: name,
		chain: func() proto.Message {
			return &setmetadatav3.Config{Metadata: []*setmetadatav3.Metadata{{
				MetadataNamespace: logMetadata,
				Value:             &structpb.Struct{Fields: map[string]*structpb.Value{logKey: structpb.NewBoolValue(on)}},
			}}}
		},
		on: func(r *route) (validator, error) {
			if said := r.label.AccessLog; said == nil || *said != on || on == r.svc.coll.cfg.AccessLog {
				return nil, nil
			}
			return &routev3.FilterConfig{Config: &anypb.Any{}}, nil // as it stands in the chain
		},
	}
}

// logged lets those requests into the access log whose route says so, or whose
// collection does where the route says nothing.
func logged(byDefault bool) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_MetadataFilter{MetadataFilter: &accesslogv3.MetadataFilter{
		Matcher: &matcherv3.MetadataMatcher{
			Filter: logMetadata,
			Path:   []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: logKey}}},
			Value:  &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_BoolMatch{BoolMatch: true}},
		},
		MatchIfKeyNotFound: wrapperspb.Bool(byDefault),
	}}}
}
