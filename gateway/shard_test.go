package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAClientThatDoesNotReadKeepsItsPlace fills a plain socket until its
// session is lent, sees that another one goes on, and reads everything after.
func TestAClientThatDoesNotReadKeepsItsPlace(t *testing.T) {
	for _, hold := range []time.Duration{-1, 10 * time.Millisecond} {
		t.Run(fmt.Sprint(hold), func(t *testing.T) {
			r := newRig(t, false, func(o *Options) { o.Hold = hold })
			r.feed.add("price", 1)
			stalled, other := r.connect(), r.connect()
			for _, c := range []*client{stalled, other} {
				c.send(`{"cmd":"sub","id":1,"topic":"price"}`)
				c.event("subscribed")
			}
			const events = 1500
			data := `"` + strings.Repeat("x", 8<<10) + `"` // 12 MB in all: more than the kernel takes
			read := func(c *client, from, to int) {
				for i := from; i < to; {
					f := c.frame()
					if f["event"] == "heartbeat" {
						continue
					}
					require.EqualValues(t, i, f["offset"])
					i++
				}
			}
			for i := range events {
				r.feed.produce("price", 0, "", data)
				if i%50 == 49 {
					read(other, i-49, i+1) // nobody waits for the one that does not read
				}
			}
			read(stalled, 0, events)
			r.feed.produce("price", 0, "", data)
			read(stalled, events, events+1)
		})
	}
}
