package gateway

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/protocol"
)

// TestAStalledClientHoldsTheRestOfOneFrame has clients of every kind stop
// reading, while they replay and while they are live: what waits for them is
// the rest of one frame, and nothing is lost.
func TestAStalledClientHoldsTheRestOfOneFrame(t *testing.T) {
	const events, size = 2000, 4000
	data := `"` + strings.Repeat("x", size) + `"`
	for _, from := range []string{"earliest", "live"} {
		t.Run(from, func(t *testing.T) {
			r := newRig(t, false)
			r.feed.add("price", 1)
			publish := func() {
				for range events {
					r.feed.produce("price", 0, "k", data)
				}
			}
			if from == "earliest" {
				publish()
			}
			var cs []*client
			for _, keys := range []string{"", `,"keys":["k"]`} {
				c := r.connect()
				c.send(`{"cmd":"sub","id":1,"topic":"price","from":"` + from + `"` + keys + `}`)
				c.event("subscribed")
				cs = append(cs, c)
			}
			if from == "live" {
				publish()
			}
			open := r.service.open()
			require.Len(t, open, len(cs))
			for _, s := range open {
				require.Eventually(t, func() bool { return s.card.rest.Load() > 0 }, waitLong, tick, "its socket is never full")
				require.LessOrEqual(t, s.card.rest.Load(), int64(size+200))
			}
			for _, c := range cs {
				require.Equal(t, seq(0, events), c.offsetsBut(events, "live"))
			}
		})
	}
}

// offsetsBut reads n data frames and skips the control frames of one name.
func (c *client) offsetsBut(n int, name string) (out []int64) {
	c.t.Helper()
	for len(out) < n {
		switch f := c.frame(); f["event"] {
		case nil:
			out = append(out, int64(f["offset"].(float64)))
		case "heartbeat", name:
		default:
			require.Fail(c.t, "unexpected", "%v", f)
		}
	}
	return out
}

// TestAStalledClientOfBatchesHoldsOneMessage has clients of batches stop
// reading, while they replay and while they are live: no message is larger than
// batchSize, and what waits for them is the rest of one.
func TestAStalledClientOfBatchesHoldsOneMessage(t *testing.T) {
	const events, size = 8000, 1000
	const control = 500 // frames that are no events come on top
	data := `"` + strings.Repeat("x", size) + `"`
	for _, from := range []string{"earliest", "live"} {
		t.Run(from, func(t *testing.T) {
			r := newRig(t, false)
			r.feed.add("price", 1)
			publish := func() {
				for range events {
					r.feed.produce("price", 0, "k", data)
				}
			}
			if from == "earliest" {
				publish()
			}
			c := r.connect("tapecast.json.batch")
			c.send(`{"cmd":"sub","id":1,"topic":"price","from":"` + from + `"}`)
			if from == "live" {
				c.event("subscribed")
				publish()
			}
			require.Eventually(t, func() bool { return len(r.service.open()) == 1 }, waitLong, tick)
			for _, s := range r.service.open() {
				require.Eventually(t, func() bool { return s.card.rest.Load() > 0 }, waitLong, tick, "its socket is never full")
				require.LessOrEqual(t, s.card.rest.Load(), int64(batchSize+control))
			}
			var got []int64
			for len(got) < events {
				message := c.next()
				require.LessOrEqual(t, len(message), batchSize+control)
				for line := range strings.SplitSeq(message, "\n") {
					if f := object(t, line); f["event"] == nil {
						got = append(got, int64(f["offset"].(float64)))
					}
				}
			}
			require.Equal(t, seq(0, events), got)
		})
	}
}

// What a session says last stands behind the frame that its socket has not
// taken whole, never inside it.
func TestTheLastWordIsBehindAFrameThatWasCut(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	s := &socket{conn: near, terms: &terms{}, rest: []byte("the rest")}
	s.hurry()
	go func() {
		_ = s.write(&block{buf: []byte(", bye")})
		s.rest = []byte(", more")
		s.close(protocol.CloseSlow)
		_ = near.Close()
	}()
	want := append([]byte("the rest, bye, more"), appendFrame(nil, opClose, binary.BigEndian.AppendUint16(nil, uint16(protocol.CloseSlow)))...)
	got, err := io.ReadAll(far)
	require.NoError(t, err)
	require.Equal(t, want, got)
}
