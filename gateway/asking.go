package gateway

import (
	"context"
	"time"

	"github.com/tapecast/tapecast/internal/protocol"
)

const (
	// maxAsking is how many commands of one session wait for the cluster's
	// topics at once; what comes beyond is answered by what is known.
	maxAsking = 4
	// askFor is how long the cluster may take to answer.
	askFor = 2 * time.Second
	// looks is how often the cluster is asked for a topic before it is denied, with
	// askAgain between: a broker that has just come back may not have heard of a
	// topic that others have.
	looks    = 2
	askAgain = 500 * time.Millisecond
)

// sub does a sub command.
func (c *conversation) sub(cmd *protocol.Command, now time.Time, asked int) {
	if err := c.subscribe(cmd, now, asked); err != nil {
		err.ID = cmd.ID
		c.fail(err)
	}
}

// ask has the cluster asked for its topics, beside the loop: one that nobody
// here knows may have been made a moment ago. All sessions share the question,
// and it is the same for topics that are not there and for those that may not
// be read. The command is done again with the answer. asked: how often it was
// before.
func (c *conversation) ask(cmd *protocol.Command, asked int) bool {
	if c.asking >= maxAsking || c.over {
		return false
	}
	c.asking++
	again := *cmd
	c.task(func(ctx context.Context) func() {
		if asked > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(askAgain):
			}
		}
		ctx, cancel := context.WithTimeout(ctx, askFor)
		defer cancel()
		err := c.feed.Refresh(ctx)
		return func() {
			c.asking--
			switch {
			case c.over:
			case err != nil:
				e := openError(err)
				e.ID = again.ID
				c.fail(e)
			default:
				c.sub(&again, time.Now(), asked+1)
			}
		}
	})
	return true
}
