package translate

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	brotliv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/brotli/compressor/v3"
	gzipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/gzip/compressor/v3"
	zstdv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/zstd/compressor/v3"
	compressorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/compressor/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Each algorithm is a filter of its own. Where a route has several and a client
// takes them equally, the last in the chain compresses (ChooseFirst): browsers name
// gzip first, and mean nothing by it.
var (
	gzip   = compressor("gzip", &gzipv3.Gzip{})
	brotli = compressor("br", &brotliv3.Brotli{})
	zstd   = compressor("zstd", &zstdv3.Zstd{})
)

// minCompressed: below a packet nothing is gained.
const minCompressed = 1 << 10

// compressible are the kinds of content that get smaller. Streams of events and
// gRPC are none of them: they are many small messages that nobody should wait for.
var compressible = []string{
	"application/javascript", "application/json", "application/ld+json", "application/manifest+json",
	"application/problem+json", "application/rss+xml", "application/atom+xml", "application/wasm", "application/xhtml+xml", "application/xml",
	"font/otf", "font/ttf", "image/svg+xml",
	"text/css", "text/csv", "text/html", "text/javascript", "text/markdown", "text/plain", "text/xml",
}

// contentTypes matches compressible, whatever its parameters.
var contentTypes = func() (all []*matcherv3.StringMatcher) {
	for _, t := range compressible {
		all = append(all, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: t}, IgnoreCase: true})
	}
	return all
}()

func compressor(algorithm string, library proto.Message) *httpFilter {
	return &httpFilter{
		name: algorithm,
		chain: func() proto.Message {
			return &compressorv3.Compressor{
				CompressorLibrary: &corev3.TypedExtensionConfig{Name: algorithm, TypedConfig: mustAny(library)},
				ChooseFirst:       true,
				ResponseDirectionConfig: &compressorv3.Compressor_ResponseDirectionConfig{
					CommonConfig: &compressorv3.Compressor_CommonDirectionConfig{
						MinContentLength:   wrapperspb.UInt32(minCompressed),
						ContentTypeMatcher: contentTypes,
					},
					// The same content in other bytes: what was the same byte by byte is not any more.
					WeakenEtagOnCompress:        true,
					UncompressibleResponseCodes: []uint32{206}, // a part of other bytes
				},
			}
		},
		on: func(r *route) (validator, error) {
			if !slices.Contains(r.label.Compression, algorithm) {
				return nil, nil
			}
			return &compressorv3.CompressorPerRoute{Override: &compressorv3.CompressorPerRoute_Overrides{
				Overrides: &compressorv3.CompressorOverrides{ResponseDirectionConfig: &compressorv3.ResponseDirectionOverrides{}},
			}}, nil
		},
	}
}
