package schemas

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/linkedin/goavro/v2"

	"github.com/tapecast/tapecast/schemas/internal/avsc"
)

// generator makes random schemas, and values of them in goavro's native form.
type generator struct {
	*rand.Rand
	named  int
	finite bool // no NaN or infinity
}

func newGenerator(seed uint64) *generator {
	return &generator{Rand: rand.New(rand.NewPCG(seed, 7))}
}

func (g *generator) name(prefix string) string {
	g.named++
	return prefix + strconv.Itoa(g.named)
}

var simpleSchemas = []string{
	`"boolean"`, `"int"`, `"long"`, `"float"`, `"double"`, `"bytes"`, `"string"`,
	`{"type":"int","logicalType":"date"}`,
	`{"type":"int","logicalType":"time-millis"}`,
	`{"type":"long","logicalType":"timestamp-micros"}`,
	`{"type":"long","logicalType":"timestamp-nanos"}`,
	`{"type":"bytes","logicalType":"decimal","precision":38,"scale":9}`,
	`{"type":"bytes","logicalType":"decimal","precision":4}`,
	`{"type":"bytes","logicalType":"decimal","precision":200,"scale":200}`,
	`{"type":"string","logicalType":"uuid"}`,
	`{"type":"string","logicalType":"nonsense"}`,
}

func (g *generator) schema(depth int) string {
	kind := g.IntN(10)
	if depth <= 0 {
		kind = g.IntN(6)
	}
	switch kind {
	default:
		return simpleSchemas[g.IntN(len(simpleSchemas))]
	case 3:
		return fmt.Sprintf(`{"type":"enum","name":%q,"symbols":["BUY","SELL","_x9"]}`, g.name("E"))
	case 4:
		return fmt.Sprintf(`{"type":"fixed","name":%q,"size":%d}`, g.name("F"), 1+g.IntN(5))
	case 5:
		return []string{
			fmt.Sprintf(`{"type":"fixed","name":%q,"size":16,"logicalType":"uuid"}`, g.name("U")),
			fmt.Sprintf(`{"type":"fixed","name":%q,"size":12,"logicalType":"duration"}`, g.name("D")),
			fmt.Sprintf(`{"type":"fixed","name":%q,"size":9,"logicalType":"decimal","precision":20,"scale":3}`, g.name("X")),
		}[g.IntN(3)]
	case 6:
		return `{"type":"array","items":` + g.schema(depth-1) + `}`
	case 7:
		return `{"type":"map","values":` + g.schema(depth-1) + `}`
	case 8:
		return g.union(depth)
	case 9:
		return g.record(depth)
	}
}

func (g *generator) record(depth int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"type":"record","name":%q,"namespace":"a.b","fields":[`, g.name("R"))
	n := 1 + g.IntN(5)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"name":"f%d","type":%s}`, i, g.schema(depth-1))
	}
	b.WriteString(`]}`)
	return b.String()
}

// union makes unions whose plain JSON tells the type.
func (g *generator) union(depth int) string {
	for {
		s := g.schema(depth - 1)
		if s[0] == '[' {
			continue
		}
		switch g.IntN(3) {
		case 0:
			return `["null",` + s + `]`
		case 1:
			return `[` + s + `,"null"]`
		}
		return fmt.Sprintf(`["null","boolean",{"type":"array","items":"int"},"string","double",{"type":"record","name":%q,"fields":[{"name":"v","type":"float"}]}]`, g.name("R"))
	}
}

var longs = []int64{0, 1, -1, 63, 64, -64, -65, 8191, 8192, math.MaxInt32, math.MinInt32, safeInteger, safeInteger + 1, -safeInteger, -safeInteger - 1, math.MaxInt64, math.MinInt64}

func (g *generator) long() int64 {
	if g.IntN(2) == 0 {
		return longs[g.IntN(len(longs))]
	}
	return int64(g.Uint64()) >> g.IntN(64)
}

func (g *generator) double() float64 {
	special := []float64{0, math.Copysign(0, -1), 1.1, 1e21, 1e-7, 123456789, math.MaxFloat64, math.SmallestNonzeroFloat64, math.NaN(), math.Inf(1), math.Inf(-1)}
	v := math.Float64frombits(g.Uint64())
	if g.IntN(2) == 0 {
		v = special[g.IntN(len(special))]
	}
	if g.finite && (math.IsNaN(v) || math.IsInf(v, 0)) {
		return 0.5
	}
	return v
}

func (g *generator) text() string {
	parts := []string{"", "a", "EURUSD", "é", "日本", "😀", "\u2028", "\u2029", "<b>&", `"\`, "\n\t\r\x00\x1f\x7f", " ", "</script>", "7"}
	var b strings.Builder
	for range g.IntN(5) {
		b.WriteString(parts[g.IntN(len(parts))])
	}
	return b.String()
}

func (g *generator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return b
}

// decimal is of the fewest bytes, so that encoding it again gives the same.
func (g *generator) decimal(s *avsc.Schema) []byte {
	digits := min(s.Precision, 1+g.IntN(45))
	v := new(big.Int)
	for range digits {
		v.Mul(v, big.NewInt(10)).Add(v, big.NewInt(g.Int64N(10)))
	}
	b := v.FillBytes(make([]byte, v.BitLen()/8+1))
	if g.IntN(2) == 0 && v.Sign() > 0 {
		b = negativeBytes(v)
	}
	if s.Kind == avsc.Fixed {
		fill := byte(0)
		if b[0] >= 0x80 {
			fill = 0xff
		}
		for len(b) < s.Size {
			b = append([]byte{fill}, b...)
		}
	}
	return b
}

// native makes a value in the form that goavro encodes by the canonical schema.
func (g *generator) native(s *avsc.Schema) any {
	switch s.Kind {
	case avsc.Null:
		return nil
	case avsc.Boolean:
		return g.IntN(2) == 0
	case avsc.Int:
		return int32(g.long())
	case avsc.Long:
		return g.long()
	case avsc.Float:
		v := float32(g.double())
		if g.finite && math.IsInf(float64(v), 0) {
			return float32(2.5)
		}
		return v
	case avsc.Double:
		return g.double()
	case avsc.Bytes:
		if s.Logical == avsc.Decimal {
			return g.decimal(s)
		}
		return g.bytes(g.IntN(10))
	case avsc.String:
		return g.text()
	case avsc.Enum:
		return s.Symbols[g.IntN(len(s.Symbols))]
	case avsc.Fixed:
		if s.Logical == avsc.Decimal {
			return g.decimal(s)
		}
		return g.bytes(s.Size)
	case avsc.Array:
		out := []any{}
		for range g.IntN(4) {
			out = append(out, g.native(s.Elem))
		}
		return out
	case avsc.Map:
		out := map[string]any{}
		for range g.IntN(4) {
			out[g.text()] = g.native(s.Elem)
		}
		return out
	case avsc.Union:
		b := s.Branches[g.IntN(len(s.Branches))]
		return goavro.Union(b.TypeName(), g.native(b))
	}
	out := map[string]any{}
	for _, f := range s.Fields {
		out[f.Name] = g.native(f.Type)
	}
	return out
}

// same tells whether decoded JSON (numbers as json.Number) says what a native
// value says. It is written against the package's doc and shares nothing with
// the transcoder.
func same(s *avsc.Schema, v, j any) error {
	differs := func(want any) error {
		if want != j {
			return fmt.Errorf("%s: have %#v, want %#v", s.TypeName(), j, want)
		}
		return nil
	}
	switch s.Kind {
	case avsc.Float:
		return sameFloat(float64(v.(float32)), j, 32)
	case avsc.Double:
		return sameFloat(v.(float64), j, 64)
	case avsc.Int:
		if s.Logical == avsc.Date {
			return differs(isoDate(int64(v.(int32))))
		}
		return differs(json.Number(strconv.Itoa(int(v.(int32)))))
	case avsc.Long:
		n := v.(int64)
		if n > 9007199254740992 || n < -9007199254740992 {
			return differs(strconv.FormatInt(n, 10))
		}
		return differs(json.Number(strconv.FormatInt(n, 10)))
	case avsc.Bytes, avsc.Fixed:
		return differs(bytesText(s, v.([]byte)))
	case avsc.String:
		return differs(repaired(v.(string)))
	case avsc.Array:
		a, _ := j.([]any)
		if len(a) != len(v.([]any)) {
			return fmt.Errorf("array of %d items, want %d", len(a), len(v.([]any)))
		}
		for i, e := range v.([]any) {
			if err := same(s.Elem, e, a[i]); err != nil {
				return err
			}
		}
		return nil
	case avsc.Map:
		return sameMap(s, v.(map[string]any), j)
	case avsc.Record:
		m, _ := j.(map[string]any)
		if len(m) != len(s.Fields) {
			return fmt.Errorf("record of %d fields, want %d", len(m), len(s.Fields))
		}
		for _, f := range s.Fields {
			if err := same(f.Type, v.(map[string]any)[f.Name], m[f.Name]); err != nil {
				return err
			}
		}
		return nil
	case avsc.Union:
		return sameUnion(s, v, j)
	}
	return differs(v) // null, boolean, enum
}

func sameUnion(s *avsc.Schema, v, j any) error {
	if v == nil {
		v = map[string]any{"null": nil}
	}
	for name, inner := range v.(map[string]any) {
		for _, b := range s.Branches {
			if b.TypeName() == name {
				return same(b, inner, j)
			}
		}
	}
	return fmt.Errorf("union without the type of %v", v)
}

func sameMap(s *avsc.Schema, v map[string]any, j any) error {
	m, _ := j.(map[string]any)
	keys := make(map[string]bool)
	for k := range v {
		keys[repaired(k)] = true
	}
	if len(keys) != len(v) {
		return nil // keys that differ in invalid bytes only
	}
	if len(m) != len(v) {
		return fmt.Errorf("map of %d entries, want %d", len(m), len(v))
	}
	for k, e := range v {
		if err := same(s.Elem, e, m[repaired(k)]); err != nil {
			return err
		}
	}
	return nil
}

func repaired(s string) string { return string([]rune(s)) }

func sameFloat(v float64, j any, size int) error {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		if j != nil {
			return fmt.Errorf("%v became %v", v, j)
		}
		return nil
	}
	n, _ := j.(json.Number)
	got, err := strconv.ParseFloat(n.String(), size)
	if err != nil || math.Float64bits(got) != math.Float64bits(v) {
		return fmt.Errorf("%v became %v", v, j)
	}
	return nil
}

func isoDate(days int64) string {
	t := time.Unix(0, 0).UTC().AddDate(0, 0, int(days))
	switch y := t.Year(); {
	case y > 9999:
		return fmt.Sprintf("+%06d-%02d-%02d", y, t.Month(), t.Day())
	case y < 0:
		return fmt.Sprintf("-%06d-%02d-%02d", -y, t.Month(), t.Day())
	}
	return t.Format("2006-01-02")
}

func bytesText(s *avsc.Schema, b []byte) string {
	switch s.Logical {
	case avsc.Decimal:
		v := new(big.Int).SetBytes(b)
		if len(b) > 0 && b[0] >= 0x80 {
			v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
		}
		scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(s.Scale)), nil)
		return new(big.Rat).SetFrac(v, scale).FloatString(s.Scale)
	case avsc.UUID:
		return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	case avsc.Duration:
		return isoDuration(b)
	}
	return base64.StdEncoding.EncodeToString(b)
}

func isoDuration(b []byte) string {
	part := func(i int, unit string) string {
		v := binary.LittleEndian.Uint32(b[i:])
		if v == 0 {
			return ""
		}
		return strconv.Itoa(int(v)) + unit
	}
	out := "P" + part(0, "M") + part(4, "D")
	if ms := binary.LittleEndian.Uint32(b[8:]); ms != 0 || out == "P" {
		out += "T" + strconv.Itoa(int(ms/1000))
		if ms%1000 != 0 {
			out += fmt.Sprintf(".%03d", ms%1000)
		}
		out += "S"
	}
	return out
}

func decodeJSON(text []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return v, d.Decode(&v)
}
