package coverage

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/stream"
)

// The gateway takes a section for each partition and batch: many a second, with
// many interests, must cost the section and not the interests.
func BenchmarkSectionWith50000Interests(b *testing.B) {
	v := NewView(topicA, 0, Options{})
	for i := range 50_000 {
		id := InterestID(strconv.Itoa(i))
		v.Add(id, []byte(id), t0)
		v.Acked(id, at(int64(i)))
	}
	v.Section(sec(0, 10, 60_000), t0)
	from := int64(10)
	s := sec(from, from, 60_000, 1, 2, 3, 4)
	b.ReportAllocs()
	for b.Loop() {
		for i := range s.Deliveries {
			s.Deliveries[i].Offset = from + int64(i)
		}
		s.From, s.To, s.End = from, from+4, from+4
		v.Section(s, t0)
		from += 4
	}
	next, _ := v.Next()
	require.Equal(b, from, next)
}

func BenchmarkRoutedTo100Nodes(b *testing.B) {
	c := NewChains(topicA, 0, 1, 0)
	routed := map[string][]stream.Record{}
	for i := range 100 {
		inc := "incarnation-" + strconv.Itoa(i)
		c.Interests(inc, at(1), true)
		if i%4 == 0 {
			routed[inc] = recs(0, 1, 2)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if got := c.Routed(c.Next()+3, c.Next()+3, at(1), routed, t0); len(got) != 25 {
			b.Fatal(len(got))
		}
	}
}
