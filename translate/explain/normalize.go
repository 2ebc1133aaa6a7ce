package explain

import (
	"strings"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// verdict is what normalisation makes of a path.
type verdict int

const (
	passed     verdict = iota
	redirected         // the client is sent to the normalised path
	refused            // 400
)

// normalisePath does what Envoy's ConnectionManagerUtility::maybeNormalizePath
// does, in its order: escaped slashes, dots and escapes, runs of slashes. The
// query is left alone.
func normalisePath(full string, m *hcmv3.HttpConnectionManager) (string, verdict) {
	path, query := full, ""
	if i := strings.IndexByte(full, '?'); i >= 0 {
		path, query = full[:i], full[i:]
	}
	result := passed
	if action := m.GetPathWithEscapedSlashesAction(); action != hcmv3.HttpConnectionManager_KEEP_UNCHANGED &&
		action != hcmv3.HttpConnectionManager_IMPLEMENTATION_SPECIFIC_DEFAULT {
		if plain := unescapeSlashes.Replace(path); plain != path {
			switch action {
			case hcmv3.HttpConnectionManager_REJECT_REQUEST:
				return full, refused
			case hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT:
				result = redirected
			}
			path = plain
		}
	}
	if m.GetNormalizePath().GetValue() {
		canonical, ok := canonicalPath(path)
		if !ok {
			return full, refused
		}
		path = canonical
	}
	if m.GetMergeSlashes() {
		path = mergeSlashes(path)
	}
	return path + query, result
}

var unescapeSlashes = strings.NewReplacer("%2F", "/", "%2f", "/", "%5C", `\`, "%5c", `\`)

// mergeSlashes makes one slash of each run (Envoy's PathUtil::mergeSlashes; a
// path of slashes alone keeps two, as there).
func mergeSlashes(path string) string {
	if !strings.Contains(path, "//") {
		return path
	}
	var parts []string
	for part := range strings.SplitSeq(path, "/") {
		if part != "" {
			parts = append(parts, part)
		}
	}
	out := strings.Join(parts, "/")
	if strings.HasPrefix(path, "/") {
		out = "/" + out
	}
	if strings.HasSuffix(path, "/") {
		out += "/"
	}
	return out
}

// canonicalPath resolves "." and "..", turns "\" into "/", unescapes what needs no
// escape and escapes what does (Envoy's LegacyPathCanonicalizer, which is
// Chromium's). It is false for paths that hold NUL.
func canonicalPath(path string) (string, bool) {
	const hex = "0123456789ABCDEF"
	out := make([]byte, 0, len(path)+8)
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch dot := dotAt(path, i); {
		case dot > 0 && len(out) > 0 && out[len(out)-1] == '/':
			kind, consumed := afterDot(path, i+dot)
			switch kind {
			case plainDot:
				out = append(out, '.')
				i += dot - 1
			case thisDirectory:
				i += dot + consumed - 1
			case parentDirectory:
				out = backUp(out)
				i += dot + consumed - 1
			}
		case dot > 0:
			out = append(out, '.')
			i += dot - 1
		case c == '\\':
			out = append(out, '/')
		case c == '%':
			v, ok := unhex(path, i)
			switch {
			case !ok:
				out = append(out, '%') // not an escape: it stays as it is
				continue
			case v == 0:
				return "", false
			case unreserved(v):
				out = append(out, v)
			default:
				out = append(out, path[i:i+3]...)
			}
			i += 2
		case c == 0:
			return "", false
		case needsEscape(c):
			out = append(out, '%', hex[c>>4], hex[c&15])
		default:
			out = append(out, c)
		}
	}
	return string(out), true
}

type dotKind int

const (
	plainDot dotKind = iota
	thisDirectory
	parentDirectory
)

// afterDot says what a dot after a slash means, and how much of what follows it belongs to that.
func afterDot(path string, i int) (dotKind, int) {
	slash := func(i int) bool { return path[i] == '/' || path[i] == '\\' }
	if i == len(path) {
		return thisDirectory, 0
	}
	if slash(i) {
		return thisDirectory, 1
	}
	second := dotAt(path, i)
	if second == 0 {
		return plainDot, 0
	}
	switch i += second; {
	case i == len(path):
		return parentDirectory, second
	case slash(i):
		return parentDirectory, second + 1
	}
	return plainDot, 0
}

// backUp takes the last directory off a path that ends in a slash; the root stays.
func backUp(out []byte) []byte {
	i := len(out) - 1
	if i == 0 {
		return out
	}
	for i--; i > 0 && out[i] != '/'; i-- {
	}
	return out[:i+1]
}

// dotAt is the length of a dot at i, escaped or not; 0 if there is none.
func dotAt(path string, i int) int {
	if path[i] == '.' {
		return 1
	}
	if strings.HasPrefix(path[i:], "%2e") || strings.HasPrefix(path[i:], "%2E") {
		return 3
	}
	return 0
}

func unhex(path string, i int) (byte, bool) {
	if i+2 >= len(path) {
		return 0, false
	}
	digit := func(c byte) (byte, bool) {
		switch {
		case c >= '0' && c <= '9':
			return c - '0', true
		case c >= 'a' && c <= 'f':
			return c - 'a' + 10, true
		case c >= 'A' && c <= 'F':
			return c - 'A' + 10, true
		}
		return 0, false
	}
	high, ok1 := digit(path[i+1])
	low, ok2 := digit(path[i+2])
	return high<<4 | low, ok1 && ok2
}

// unreserved are the characters that stand plain, whether they came escaped or not.
func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '~'
}

func needsEscape(c byte) bool {
	return c <= ' ' || c >= 0x7f || strings.IndexByte("\"#<>?^`{|}", c) >= 0
}
