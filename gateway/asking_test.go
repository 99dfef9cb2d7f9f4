package gateway

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestATopicMadeAMomentAgoIsFound(t *testing.T) { foundWhenAsked(t, 1) }

func TestATopicThatOneBrokerHasNotHeardOfIsFound(t *testing.T) { foundWhenAsked(t, 2) }

// foundWhenAsked subscribes to a topic that is there when the cluster is asked
// for the nth time.
func foundWhenAsked(t *testing.T, nth int) {
	t.Helper()
	r := newRig(t, false)
	n := 0
	r.feed.fresh = func() error {
		if n++; n == nth {
			r.feed.add("new", 1)
		}
		return nil
	}
	c := r.connect()
	c.send(`{"cmd":"sub","id":1,"topic":"new"}`)
	require.Equal(t, 1.0, c.event("subscribed")["id"])
}

func TestAnUnknownTopicIsAskedForTwice(t *testing.T) {
	r := newRig(t, false)
	c := r.connect()
	c.send(`{"cmd":"sub","id":"x","topic":"nothing"}`)
	e := c.event("error")
	require.Equal(t, "unknown_topic", e["code"])
	require.Equal(t, false, e["retry"])
	require.Equal(t, "x", e["id"])
	require.Equal(t, 2, r.feed.asked)
}

func TestAnUnknownTopicIsNotDeniedWhileTheClusterIsAway(t *testing.T) {
	r := newRig(t, false)
	r.feed.fresh = func() error { return errors.New("connection refused") }
	c := r.connect()
	c.send(`{"cmd":"sub","id":1,"topic":"nothing"}`)
	e := c.event("error")
	require.Equal(t, "unavailable", e["code"])
	require.Equal(t, true, e["retry"])
}
