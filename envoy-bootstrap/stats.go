package bootstrap

import (
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// kept are the statistics that exist at all, as regular expressions that match
// the whole name with ":" written "_". What survives here is what costs: every flush walks all of
// it. A list of what to leave out grows with every version of Envoy, so this is
// a list of what to keep.
var kept = []string{
	// Of each service: requests by outcome (completed, not total: a cluster without
	// endpoints has no total), their time, and connections that failed. [^.]+ leaves
	// out the doubles under "external." and "internal.".
	`cluster\.[^.]+\.upstream_(rq_(completed|[45]xx|time|timeout|pending_overflow)|cx_connect_fail)`,
	// Of each listener's HTTP.
	`http\.[^.]+\.(downstream_rq_(total|completed|[1-5]xx|time|active)|downstream_cx_(active|total)|no_route|no_cluster)`,
	// Of the proxy itself and of the channel.
	`(server|control_plane|cluster_manager|listener_manager)\..*|cluster\.xds\..*`,
}

// buckets bound the request times that are told apart, in milliseconds.
var buckets = []float64{1, 2.5, 5, 10, 25, 50, 75, 100, 250, 500, 1000, 2500, 5000, 10000}

func statsConfig() *metricsv3.StatsConfig {
	list := &matcherv3.ListStringMatcher{}
	for _, re := range kept {
		list.Patterns = append(list.Patterns, &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: re}},
		})
	}
	return &metricsv3.StatsConfig{
		StatsMatcher: &metricsv3.StatsMatcher{
			StatsMatcher: &metricsv3.StatsMatcher_InclusionList{InclusionList: list},
		},
		HistogramBucketSettings: []*metricsv3.HistogramBucketSettings{{
			Match:   &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: "rq_time"}},
			Buckets: buckets,
		}},
	}
}
