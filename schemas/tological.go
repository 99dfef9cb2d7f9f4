package schemas

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

func runeCount(b []byte) int { return utf8.RuneCount(b) }

// decimal encodes a string of digits or a number, exactly.
func (e *encoder) decimal(n *node, token []byte, lenient bool) *ValueError {
	number := token
	switch c := token[0]; {
	case c == '"':
		number = token[1 : len(token)-1]
	case !lenient || c != '-' && !isDigit(c):
		return mismatch(c, n)
	}
	num, scratch, ok := parseNumber(number, e.scratch)
	e.scratch = scratch
	if !ok {
		return &ValueError{Reason: "is no decimal number"}
	}
	b, why := num.unscaled(n.prec, n.scale)
	if why != "" {
		return &ValueError{Reason: why + ", want " + n.want}
	}
	if n.op == opDecimal {
		e.dst = append(binary.AppendVarint(e.dst, int64(len(b))), b...)
		return nil
	}
	if len(b) > n.size { // cannot be: the precision fits the size
		return &ValueError{Reason: "is too large, want " + n.want}
	}
	sign := byte(0)
	if b[0] >= 0x80 {
		sign = 0xff
	}
	for range n.size - len(b) {
		e.dst = append(e.dst, sign)
	}
	e.dst = append(e.dst, b...)
	return nil
}

// date encodes an ISO 8601 date or a number of days.
func (e *encoder) date(n *node, token []byte, lenient bool) *ValueError {
	if token[0] != '"' {
		if !lenient {
			return mismatch(token[0], n)
		}
		return e.integer(&node{op: opInt, want: n.want}, token, true)
	}
	days, ok := parseDate(token[1 : len(token)-1])
	if !ok {
		return &ValueError{Reason: "is no date such as 2026-01-02"}
	}
	e.dst = binary.AppendVarint(e.dst, days)
	return nil
}

// parseDate reads what appendDate writes.
func parseDate(b []byte) (days int64, ok bool) {
	sign, width := 1, 4
	if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
		if b[0] == '-' {
			sign = -1
		}
		b, width = b[1:], len(b)-1-len("-01-02")
		if width < 6 || width > 7 {
			return 0, false
		}
	}
	if len(b) != width+6 || b[width] != '-' || b[width+3] != '-' {
		return 0, false
	}
	year, okYear := digits(b[:width])
	month, okMonth := digits(b[width+1 : width+3])
	day, okDay := digits(b[width+4:])
	if !okYear || !okMonth || !okDay {
		return 0, false
	}
	t := time.Date(sign*year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
	if int(t.Month()) != month || t.Day() != day {
		return 0, false
	}
	days = t.Unix() / 86_400
	return days, days == int64(int32(days))
}

// digits reads at most nine of them.
func digits(b []byte) (v int, ok bool) {
	for _, c := range b {
		if !isDigit(c) {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	return v, len(b) > 0 && len(b) <= 9
}

// parseUUID reads the 36 characters of a uuid.
func parseUUID(text []byte) (u [16]byte, ok bool) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return u, false
	}
	var plain [32]byte
	b := append(plain[:0], text[:8]...)
	b = append(append(b, text[9:13]...), text[14:18]...)
	b = append(append(b, text[19:23]...), text[24:]...)
	_, err := hex.Decode(u[:], b)
	return u, err == nil
}

// parseDuration reads what appendDuration writes: months, days and seconds,
// each once at most, in this order.
func parseDuration(text []byte) (b [12]byte, ok bool) {
	if len(text) < 3 || text[0] != 'P' {
		return b, false
	}
	text = text[1:]
	for i, unit := range []byte{'M', 'D'} {
		v, rest, found := takeUnit(text, unit)
		if found {
			binary.LittleEndian.PutUint32(b[4*i:], v)
			text = rest
		}
	}
	if len(text) == 0 {
		return b, true
	}
	if text[0] != 'T' || text[len(text)-1] != 'S' {
		return b, false
	}
	ms, ok := parseSeconds(text[1 : len(text)-1])
	binary.LittleEndian.PutUint32(b[8:], ms)
	return b, ok
}

func takeUnit(text []byte, unit byte) (v uint32, rest []byte, ok bool) {
	for i, c := range text {
		if c == unit {
			n, err := strconv.ParseUint(string(text[:i]), 10, 32)
			return uint32(n), text[i+1:], err == nil
		}
		if !isDigit(c) {
			break
		}
	}
	return 0, text, false
}

// parseSeconds reads seconds with up to three decimal places as milliseconds.
func parseSeconds(text []byte) (ms uint32, ok bool) {
	whole, fraction := text, []byte(nil)
	for i, c := range text {
		if c == '.' {
			whole, fraction = text[:i], text[i+1:]
			if len(fraction) == 0 || len(fraction) > 3 {
				return 0, false
			}
		}
	}
	s, err := strconv.ParseUint(string(whole), 10, 32)
	f, _ := digits(append(append([]byte{}, fraction...), "000"[:3-len(fraction)]...))
	total := s*1000 + uint64(f)
	for _, c := range fraction {
		ok = ok || !isDigit(c)
	}
	return uint32(total), err == nil && !ok && total <= math.MaxUint32
}
