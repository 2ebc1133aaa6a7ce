package secrets

import (
	"bytes"
	"encoding/asn1"
	"slices"
)

// wellFormed reports whether a certificate that Go has parsed is also one for
// BoringSSL: Go passes over what is left in some of its structures, and over what
// stands in place of its extensions. Authorities make none of these; damage does.
func wellFormed(der []byte) bool {
	var outer asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &outer); err != nil || len(rest) > 0 {
		return false
	}
	parts, ok := elements(outer, asn1.TagSequence)
	if !ok || len(parts) != 3 || !algorithm(parts[1]) || !is(parts[2], asn1.TagBitString) {
		return false
	}
	fields, ok := elements(parts[0], asn1.TagSequence)
	if !ok {
		return false
	}
	version := byte(0)
	if len(fields) > 0 && explicit(fields[0], 0) {
		v, ok := within(fields[0])
		if !ok || len(v) != 1 || !is(v[0], asn1.TagInteger) || len(v[0].Bytes) != 1 || v[0].Bytes[0] == 0 {
			return false
		}
		version, fields = v[0].Bytes[0], fields[1:]
	}
	if len(fields) < 6 || !is(fields[0], asn1.TagInteger) || !algorithm(fields[1]) || !name(fields[2]) || !name(fields[4]) {
		return false
	}
	if validity, ok := elements(fields[3], asn1.TagSequence); !ok || len(validity) != 2 {
		return false
	}
	if key, ok := elements(fields[5], asn1.TagSequence); !ok || len(key) != 2 || !algorithm(key[0]) || !is(key[1], asn1.TagBitString) {
		return false
	}
	next := 1
	for _, f := range fields[6:] {
		if f.Class != asn1.ClassContextSpecific || f.Tag < next || f.Tag > 3 {
			return false
		}
		next = f.Tag + 1
		if f.Tag == 3 && (version != 2 || !extensions(f)) || f.Tag < 3 && (version == 0 || f.IsCompound) {
			return false
		}
	}
	return true
}

// extensions reports whether [3] holds extensions, each an identifier, perhaps whether
// it is critical, and its octets.
func extensions(f asn1.RawValue) bool {
	one, ok := within(f)
	if !ok || len(one) != 1 || !f.IsCompound {
		return false
	}
	all, ok := elements(one[0], asn1.TagSequence)
	return ok && len(all) > 0 && !slices.ContainsFunc(all, func(e asn1.RawValue) bool {
		parts, ok := elements(e, asn1.TagSequence)
		if !ok || len(parts) < 2 || len(parts) > 3 || !is(parts[0], asn1.TagOID) || !is(parts[len(parts)-1], asn1.TagOctetString) ||
			len(parts) == 3 && !is(parts[1], asn1.TagBoolean) {
			return true
		}
		return bytes.Equal(parts[0].Bytes, subjectAltName) && !generalNames(parts[len(parts)-1].Bytes)
	})
}

// subjectAltName is the identifier of that extension, encoded.
var subjectAltName = []byte{0x55, 0x1d, 0x11}

// generalNames reports whether all names are of the kinds that there are.
func generalNames(der []byte) bool {
	var outer asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &outer); err != nil || len(rest) > 0 {
		return false
	}
	all, ok := elements(outer, asn1.TagSequence)
	return ok && !slices.ContainsFunc(all, func(n asn1.RawValue) bool {
		compound := n.Tag == 0 || n.Tag >= 3 && n.Tag <= 5 // otherName, x400Address, directoryName, ediPartyName
		return n.Class != asn1.ClassContextSpecific || n.Tag > 8 || n.IsCompound != compound
	})
}

// name reports whether a value is a distinguished name.
func name(v asn1.RawValue) bool {
	sets, ok := elements(v, asn1.TagSequence)
	return ok && !slices.ContainsFunc(sets, func(s asn1.RawValue) bool {
		all, ok := elements(s, asn1.TagSet)
		return !ok || len(all) == 0 || slices.ContainsFunc(all, func(a asn1.RawValue) bool {
			parts, ok := elements(a, asn1.TagSequence)
			return !ok || len(parts) != 2 || !is(parts[0], asn1.TagOID)
		})
	})
}

// algorithm reports whether a value is an identifier of one, perhaps with parameters.
func algorithm(v asn1.RawValue) bool {
	parts, ok := elements(v, asn1.TagSequence)
	return ok && (len(parts) == 1 || len(parts) == 2) && is(parts[0], asn1.TagOID)
}

func is(v asn1.RawValue, tag int) bool { return v.Class == asn1.ClassUniversal && v.Tag == tag }

func explicit(v asn1.RawValue, tag int) bool {
	return v.Class == asn1.ClassContextSpecific && v.Tag == tag && v.IsCompound
}

// elements are the values in a SEQUENCE or SET, with nothing left between or after them.
func elements(v asn1.RawValue, tag int) ([]asn1.RawValue, bool) {
	if !is(v, tag) || !v.IsCompound {
		return nil, false
	}
	return within(v)
}

func within(v asn1.RawValue) (all []asn1.RawValue, ok bool) {
	for rest := v.Bytes; len(rest) > 0; {
		var one asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &one); err != nil {
			return nil, false
		}
		all = append(all, one)
	}
	return all, true
}
