package gateway

import (
	"errors"
	"fmt"
	"time"

	"github.com/tapecast/tapecast/internal/catalog"
)

// TopicHold is how long the events of some topics wait after a write, to leave
// with those that follow.
type TopicHold struct {
	Topic string        // as clients name it; * stands for any characters, ? for one
	Hold  time.Duration // 0 = none
}

// gather tells how long a topic's events wait. The first rule that names it decides.
func (r *rules) gather(topic string) time.Duration {
	for i := range r.holds {
		if catalog.Match(r.holds[i].Topic, topic) {
			return r.holds[i].Hold
		}
	}
	return r.hold
}

// gather tells how long after a write what is due now rests: as long as the
// subscription whose events wait least; if nothing is due, as long as any.
func (c *conversation) gather() time.Duration {
	if len(c.gathers) == 1 {
		return c.gathers[0]
	}
	var most, least time.Duration
	due := false
	for _, s := range c.subs {
		most = max(most, s.gather)
		if s.due.Load() && (!due || s.gather < least) {
			least, due = s.gather, true
		}
	}
	if due {
		return least
	}
	return most
}

// checkHolds looks over Options.Holds.
func checkHolds(holds []TopicHold) error {
	var errs []error
	for _, h := range holds {
		if h.Topic == "" || h.Hold < 0 {
			errs = append(errs, fmt.Errorf("gateway: a hold needs a topic and must not be negative: %q %s", h.Topic, h.Hold))
		}
	}
	return errors.Join(errs...)
}
