package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// value is one setting: it reads itself from text and writes itself back. It
// is a flag.Value, so that flags, environment and file share one parser.
type value interface {
	Set(text string) error
	String() string
	// expect completes "expected ...".
	expect() string
}

// listValue is a value that a file gives as a sequence.
type listValue interface {
	value
	setList(items []string) error
}

type stringValue struct {
	p     *string
	want  string
	check func(string) error // nil = anything
}

func (v stringValue) String() string { return *v.p }
func (v stringValue) expect() string { return v.want }

func (v stringValue) Set(s string) error {
	if v.check != nil {
		if err := v.check(s); err != nil {
			return err
		}
	}
	*v.p = s
	return nil
}

type enumValue struct {
	p     *string
	words []string
}

func (v enumValue) String() string { return *v.p }
func (v enumValue) expect() string { return "one of " + strings.Join(v.words, ", ") }

func (v enumValue) Set(s string) error {
	if !slices.Contains(v.words, s) {
		return errors.New("is none of the known words")
	}
	*v.p = s
	return nil
}

type boolValue struct{ p *bool }

func (v boolValue) String() string   { return strconv.FormatBool(*v.p) }
func (v boolValue) expect() string   { return "true or false" }
func (v boolValue) IsBoolFlag() bool { return true }

func (v boolValue) Set(s string) error {
	switch s {
	case "true":
		*v.p = true
	case "false":
		*v.p = false
	default:
		return errors.New("is neither true nor false")
	}
	return nil
}

type intValue struct {
	p        *int
	min, max int
}

func (v intValue) String() string { return strconv.Itoa(*v.p) }
func (v intValue) expect() string { return fmt.Sprintf("a whole number from %d to %d", v.min, v.max) }

func (v intValue) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil {
		return errors.New("is not a whole number")
	}
	if n < v.min || n > v.max {
		return errors.New("is out of bounds")
	}
	*v.p = n
	return nil
}

type floatValue struct {
	p        *float64
	min, max float64
}

func (v floatValue) String() string { return strconv.FormatFloat(*v.p, 'g', -1, 64) }
func (v floatValue) expect() string { return fmt.Sprintf("a number from %g to %g", v.min, v.max) }

func (v floatValue) Set(s string) error {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return errors.New("is not a number")
	}
	if math.IsNaN(f) || f < v.min || f > v.max {
		return errors.New("is out of bounds")
	}
	*v.p = f
	return nil
}

type bytesValue struct {
	p        *int64
	min, max int64
}

func (v bytesValue) String() string { return FormatBytes(*v.p) }
func (v bytesValue) expect() string {
	return fmt.Sprintf("a size such as 64KiB or 256MiB, from %s to %s", FormatBytes(v.min), FormatBytes(v.max))
}

func (v bytesValue) Set(s string) error {
	n, err := ParseBytes(s)
	if err != nil {
		return err
	}
	if n < v.min || n > v.max {
		return errors.New("is out of bounds")
	}
	*v.p = n
	return nil
}

type durationValue struct {
	p        *time.Duration
	min, max time.Duration
}

func (v durationValue) String() string { return FormatDuration(*v.p) }
func (v durationValue) expect() string {
	return fmt.Sprintf("a duration such as 500ms or 10s, from %s to %s", FormatDuration(v.min), FormatDuration(v.max))
}

func (v durationValue) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return errors.New("is not a duration")
	}
	if d < v.min || d > v.max {
		return errors.New("is out of bounds")
	}
	*v.p = d
	return nil
}

// stringsValue is a list of texts; on a flag or in the environment it is
// separated by commas.
type stringsValue struct {
	p     *[]string
	want  string
	check func(string) error
}

func (v stringsValue) String() string { return strings.Join(*v.p, ",") }
func (v stringsValue) expect() string { return v.want }
func (v stringsValue) Set(s string) error {
	return v.setList(splitList(s))
}

func (v stringsValue) setList(items []string) error {
	for _, it := range items {
		if err := v.check(it); err != nil {
			return fmt.Errorf("holds %q, which %w", it, err)
		}
	}
	*v.p = items
	return nil
}

// prefixesValue is a list of networks, or of single addresses.
type prefixesValue struct{ p *[]netip.Prefix }

func (v prefixesValue) expect() string {
	return "a network such as 10.0.0.0/8, or an address, or several"
}

func (v prefixesValue) String() string {
	words := make([]string, len(*v.p))
	for i, n := range *v.p {
		words[i] = n.String()
	}
	return strings.Join(words, ",")
}

func (v prefixesValue) Set(s string) error { return v.setList(splitList(s)) }

func (v prefixesValue) setList(items []string) error {
	var out []netip.Prefix
	for _, it := range items {
		n, err := netip.ParsePrefix(it)
		if err != nil {
			a, aerr := netip.ParseAddr(it)
			if aerr != nil {
				return fmt.Errorf("holds %q, which is no network", it)
			}
			n = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, n.Masked())
	}
	*v.p = out
	return nil
}

func splitList(s string) []string {
	var out []string
	for it := range strings.SplitSeq(s, ",") {
		if it = strings.TrimSpace(it); it != "" {
			out = append(out, it)
		}
	}
	return out
}

var byteUnits = []struct {
	suffix string
	size   int64
}{
	{"KiB", kib}, {"MiB", mib}, {"GiB", gib}, {"TiB", 1 << 40},
	{"kB", 1000}, {"KB", 1000}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// ParseBytes reads a size: a whole number, with a unit (B, KiB, MiB, GiB, TiB,
// kB, MB, GB, TB) or without one (bytes).
func ParseBytes(s string) (int64, error) {
	digits, size := strings.TrimSpace(s), int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(digits, u.suffix); ok {
			digits, size = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 {
		return 0, errors.New("is not a size")
	}
	if n > math.MaxInt64/size {
		return 0, errors.New("is out of bounds")
	}
	return n * size, nil
}

// FormatBytes is the inverse of ParseBytes, in the largest binary unit that is exact.
func FormatBytes(n int64) string {
	for _, u := range []struct {
		suffix string
		size   int64
	}{{"TiB", 1 << 40}, {"GiB", gib}, {"MiB", mib}, {"KiB", kib}} {
		if n >= u.size && n%u.size == 0 {
			return strconv.FormatInt(n/u.size, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

// FormatDuration writes a duration without trailing zero units: 5m, not 5m0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// checkAddr takes host:port, also with an empty host and with port 0.
func checkAddr(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New("is not host:port")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return errors.New("has no port from 0 to 65535")
	}
	return nil
}

// CheckBroker tells whether s is the host:port of a broker.
func CheckBroker(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return errors.New("is not host:port")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return errors.New("has no port from 1 to 65535")
	}
	return nil
}

// CheckURL tells whether s can be a registry's base URL.
func CheckURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Host == "", u.Scheme != "http" && u.Scheme != "https":
		return errors.New("is not an http:// or https:// URL")
	case u.RawQuery != "" || u.Fragment != "":
		return errors.New("has a query or a fragment")
	}
	return nil
}

func checkOrigin(s string) error {
	if s == "*" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return errors.New("is not scheme://host or scheme://host:port")
	}
	return nil
}

func checkNotEmpty(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	return nil
}

// checkKafkaName holds names that become part of Kafka topic or group names to Kafka's alphabet.
func checkKafkaName(s string) error {
	if len(s) > 100 {
		return errors.New("is longer than 100 bytes")
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-' {
			return fmt.Errorf("holds %q", r)
		}
	}
	return nil
}

// CheckAddr tells whether s can be a listen address: host:port, port 0 included.
func CheckAddr(s string) error { return checkAddr(s) }

// ParseOrigins reads a comma-separated list of web origins.
func ParseOrigins(s string) ([]string, error) {
	var out []string
	err := stringsValue{&out, "", checkOrigin}.Set(s)
	return out, err
}
