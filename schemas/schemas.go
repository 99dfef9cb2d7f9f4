// Package schemas owns Avro: the .avsc files of tapecast, the registry client,
// the transcoder from Avro to JSON and back, and (in schemas/registry) the
// embedded registry. It is the only importer of goavro.
//
// # How values look in JSON
//
// Codec.AppendJSON and Codec.AppendAvro agree on one readable form, written in
// the schema's order and safe to paste into HTML:
//
//	null, boolean, int, float, double   as JSON has them; NaN and the infinities are null
//	long                                a number, beyond ±2^53 a string of digits
//	string                              a string; invalid UTF-8 becomes U+FFFD
//	bytes, fixed                        a string in base64 (standard alphabet, padded)
//	enum                                its symbol
//	array, record                       an array, an object
//	map                                 an object; a key that the data holds twice stays twice
//	union                               the plain value, without the name of its type
//	decimal (bytes, fixed)              a string with all digits of the scale: "12.30"
//	date                                "2026-01-02"; years beyond 9999 as "+12026-01-02"
//	time-*, timestamp-*                 numbers in the schema's unit, by the rule of int and long
//	uuid (string, fixed)                "123e4567-e89b-12d3-a456-426614174000"
//	duration                            ISO 8601: "P1M2DT3.004S"
//
// A logical type that is unknown or does not fit its type is ignored, as
// Avro's specification asks.
//
// Codec.AppendAvroJSON reads Avro's own JSON encoding instead, which REST
// proxies speak: bytes, fixed and decimals are strings of one character per
// byte. No value tells which of the two forms it is in ("AAAA" is good in
// both), so the caller has to know.
package schemas

// Subject names the subject of a topic's values, as Confluent's default strategy does.
func Subject(topic string) string { return topic + "-value" }

// WireHeader is the length of Confluent's wire header: magic byte 0, 4-byte id.
const WireHeader = 5

// SplitWire splits a value in Confluent's wire format.
func SplitWire(value []byte) (id uint32, body []byte, ok bool) {
	if len(value) < WireHeader || value[0] != 0 {
		return 0, nil, false
	}
	return uint32(value[1])<<24 | uint32(value[2])<<16 | uint32(value[3])<<8 | uint32(value[4]), value[WireHeader:], true
}

// AppendWireHeader appends Confluent's wire header.
func AppendWireHeader(dst []byte, id uint32) []byte {
	return append(dst, 0, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}
