package translate

import (
	faultcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// fault makes a share of the requests wait, or fail, to see what clients make of
// it. Only those that every guard lets pass.
var fault = &httpFilter{
	name:  "fault",
	chain: func() proto.Message { return &faultv3.HTTPFault{} },
	on: func(r *route) (validator, error) {
		delay, abort := r.label.FaultDelay, r.label.FaultAbort
		if delay == nil && abort == nil {
			return nil, nil
		}
		// Its figures would be by a name that clients choose.
		f := &faultv3.HTTPFault{DisableDownstreamClusterStats: true}
		if delay != nil {
			f.Delay = &faultcommonv3.FaultDelay{
				FaultDelaySecifier: &faultcommonv3.FaultDelay_FixedDelay{FixedDelay: durationpb.New(delay.For)},
				Percentage:         fraction(delay.Percent).DefaultValue,
			}
		}
		if abort != nil {
			f.Abort = &faultv3.FaultAbort{
				ErrorType:  &faultv3.FaultAbort_HttpStatus{HttpStatus: abort.Status},
				Percentage: fraction(abort.Percent).DefaultValue,
			}
		}
		return f, nil
	},
}
