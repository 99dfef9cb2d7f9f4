package publish

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// unit is what a time field counts in.
type unit int64

// The units, in nanoseconds; rfc3339 is text.
const (
	unitUnknown unit = 0
	unitSeconds      = unit(time.Second)
	unitMillis       = unit(time.Millisecond)
	unitMicros       = unit(time.Microsecond)
	unitNanos        = unit(time.Nanosecond)
	unitRFC3339 unit = -1
)

func (u unit) String() string {
	switch u {
	case unitUnknown:
		return "unknown"
	case unitSeconds:
		return "s"
	case unitMillis:
		return "ms"
	case unitMicros:
		return "us"
	case unitNanos:
		return "ns"
	case unitRFC3339:
		return "RFC 3339"
	}
	return "?"
}

// clock reads times. It recognises the unit on the first row and keeps it: a
// value near zero may look like another one. A value that only makes sense in
// another unit is an error, as it would be off by a thousand times.
type clock struct {
	unit  unit
	first time.Time // the first row's
}

// nearFirst is how far from the first row's time a time in another unit may be
// to be taken for what was meant.
const nearFirst = 10 * 365 * 24 * time.Hour

// Bounds of the recognition: seconds reach to the year 5138; as milliseconds
// the same number is 1973, and so on.
const (
	maxSeconds = 1e11
	maxMillis  = 1e14
	maxMicros  = 1e17
)

// parse reads one time: a number of s, ms, us or ns since the Unix epoch, or RFC 3339.
func (c *clock) parse(text string) (time.Time, error) {
	text = strings.TrimSpace(text)
	number := isNumber(text)
	u := c.unit
	if u == unitUnknown {
		u = recognise(text, number)
	}
	var t time.Time
	var err error
	switch {
	case u == unitRFC3339 && number:
		return t, fmt.Errorf("time %q is a number, but the first row's is RFC 3339", text)
	case u == unitRFC3339:
		t, err = parseRFC3339(text)
	case !number:
		return t, fmt.Errorf("time %q is not a number, but the first row's is in %s", text, u)
	default:
		if err = c.sameUnit(text, u); err == nil {
			t, err = fromNumber(text, u)
		}
	}
	if err == nil && c.unit == unitUnknown { // a bad first row decides nothing
		c.unit, c.first = u, t
	}
	return t, err
}

// sameUnit refuses a number that is not in the first row's unit: one that is
// beyond it, or one below that is a time near the first row's in its own.
func (c *clock) sameUnit(text string, u unit) error {
	looks := recognise(text, true)
	if looks == u {
		return nil
	}
	if looks > u {
		t, err := fromNumber(text, looks)
		if err != nil || t.Sub(c.first).Abs() > nearFirst {
			return nil //nolint:nilerr // whether it is a number at all is asked later
		}
	}
	return fmt.Errorf("time %q looks like %s, but the first row's is in %s: all rows must be in one unit", text, looks, u)
}

func isNumber(s string) bool {
	_, err := strconv.ParseFloat(s, 64)
	return err == nil && strings.Trim(s, "+-0123456789.") == ""
}

func recognise(text string, number bool) unit {
	if !number {
		return unitRFC3339
	}
	f, _ := strconv.ParseFloat(text, 64)
	switch f = math.Abs(f); {
	case f < maxSeconds:
		return unitSeconds
	case f < maxMillis:
		return unitMillis
	case f < maxMicros:
		return unitMicros
	}
	return unitNanos
}

// parseRFC3339 also takes a blank in place of the T, as many exports have it.
func parseRFC3339(s string) (time.Time, error) {
	if len(s) > 10 && s[10] == ' ' {
		s = s[:10] + "T" + s[11:]
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return t, fmt.Errorf("time %q is neither a number nor RFC 3339 (2026-01-02T03:04:05Z)", s)
	}
	return t, nil
}

// fromNumber is exact: it does not go through floating point.
func fromNumber(s string, u unit) (time.Time, error) {
	whole, frac, _ := strings.Cut(s, ".")
	negative := strings.HasPrefix(whole, "-")
	if whole == "" || whole == "-" || whole == "+" {
		whole += "0"
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("time %q is out of bounds", s)
	}
	perSecond := int64(time.Second) / int64(u)
	sec, rest := n/perSecond, n%perSecond*int64(u)
	if frac != "" {
		f, err := fraction(frac, int64(u))
		if err != nil {
			return time.Time{}, fmt.Errorf("time %q: %w", s, err)
		}
		if negative {
			f = -f
		}
		rest += f
	}
	return time.Unix(sec, rest).UTC(), nil
}

// fraction is digits/10^len(digits) of u nanoseconds, cut off below one.
func fraction(digits string, u int64) (int64, error) {
	if len(digits) > 9 {
		digits = digits[:9]
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return 0, errors.New("has a bad fraction")
	}
	scale := int64(1)
	for range len(digits) {
		scale *= 10
	}
	return int64(n) * u / scale, nil // < 1e9 * 1e9
}

// in counts t in a unit, as an Avro timestamp has it.
func in(t time.Time, u unit) int64 {
	switch u {
	case unitMillis:
		return t.UnixMilli()
	case unitMicros:
		return t.UnixMicro()
	case unitSeconds:
		return t.Unix()
	case unitNanos, unitUnknown, unitRFC3339:
	}
	return t.UnixNano()
}
