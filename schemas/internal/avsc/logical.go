package avsc

import "math"

var logicals = map[string]struct {
	logical Logical
	kinds   []Kind
}{
	"decimal":                {Decimal, []Kind{Bytes, Fixed}},
	"date":                   {Date, []Kind{Int}},
	"time-millis":            {TimeMillis, []Kind{Int}},
	"time-micros":            {TimeMicros, []Kind{Long}},
	"timestamp-millis":       {TimestampMillis, []Kind{Long}},
	"timestamp-micros":       {TimestampMicros, []Kind{Long}},
	"timestamp-nanos":        {TimestampNanos, []Kind{Long}},
	"local-timestamp-millis": {LocalTimestampMillis, []Kind{Long}},
	"local-timestamp-micros": {LocalTimestampMicros, []Kind{Long}},
	"local-timestamp-nanos":  {LocalTimestampNanos, []Kind{Long}},
	"uuid":                   {UUID, []Kind{String, Fixed}},
	"duration":               {Duration, []Kind{Fixed}},
}

// setLogical notes the logical type, if it is known and fits. The
// specification asks to ignore it otherwise.
func (s *Schema) setLogical() {
	name, _ := s.props["logicalType"].(string)
	l, ok := logicals[name]
	if !ok {
		return
	}
	fits := false
	for _, k := range l.kinds {
		fits = fits || k == s.Kind
	}
	switch {
	case !fits, l.logical == Duration && s.Size != 12, l.logical == UUID && s.Kind == Fixed && s.Size != 16:
		return
	case l.logical == Decimal && !s.setDecimal():
		return
	}
	s.Logical = l.logical
}

func (s *Schema) setDecimal() bool {
	precision, ok := integer(s.props["precision"])
	scale := 0
	if v, has := s.props["scale"]; ok && has {
		scale, ok = integer(v)
	}
	if !ok || precision < 1 || precision > MaxPrecision || scale < 0 || scale > precision {
		return false
	}
	if s.Kind == Fixed && float64(precision) > math.Floor(math.Log10(2)*float64(8*s.Size-1)) {
		return false
	}
	s.Precision, s.Scale = precision, scale
	return true
}
