package gateway

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLevelZeroGetsDataAndNothingElse(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	r.feed.fill(t, "price", 0, 4711, noKey)
	c := r.connect()
	c.send(`{"cmd":"sub","topic":"price"}`)
	c.sync()
	r.feed.produce("price", 0, "", "1024")
	c.expect(`{"topic":"price","data":1024,"offset":4711,"ts":1546383604711}`)
	c.send(`{"cmd":"unsub","topic":"price"}`)
	c.sync()
	r.feed.produce("price", 0, "", "1025")
	c.sync()
}

func TestResumeIsAckedReplayedAndLive(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	r.feed.fill(t, "price", 0, 100, noKey)
	c := r.connect()
	c.send(`{"cmd":"sub","id":7,"topic":"price","from":{"offsets":{"0":90}}}`)
	ack := c.event("subscribed")
	require.Equal(t, "exact", ack["resume"])
	require.Equal(t, map[string]any{"0": 90.0}, ack["from"])
	require.Equal(t, map[string]any{"0": 100.0}, ack["live"])
	require.Equal(t, 7.0, ack["id"])
	require.Equal(t, epochOf(1).String(), ack["epoch"])
	require.Equal(t, seq(90, 100), c.offsets(10))
	live := c.event("live")
	require.Equal(t, 10.0, live["replayed"])
	require.Equal(t, map[string]any{"0": 100.0}, live["at"])
	r.feed.produce("price", 0, "", "1")
	require.Equal(t, []int64{100}, c.offsets(1))
}

func TestEveryFromForm(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	r.feed.fill(t, "price", 0, 50, noKey)
	r.feed.change("price", func(tp *fakeTopic) { tp.retain(0, 10) })
	for _, tt := range []struct {
		from, resume string
		first        float64
		replayed     float64
	}{
		{`"live"`, "exact", 50, -1},
		{`"earliest"`, "exact", 10, 40},
		{`{"last":5}`, "exact", 45, 5},
		{`{"last":5000}`, "exact", 10, 40},
		{`{"time":1546383600020}`, "exact", 20, 30},
		{`{"time":"2019-01-01T23:00:00.030Z"}`, "exact", 30, 20},
		{`{"time":"2024-01-01T00:00:00Z"}`, "exact", 50, 0},
		{`{"offset":44}`, "exact", 44, 6},
		{`{"offsets":{"0":44},"epoch":"` + epochOf(1).String() + `"}`, "exact", 44, 6},
		{`{"offsets":{"0":44},"epoch":"` + epochOf(9).String() + `"}`, "reset", 0, 40},
		{`{"offset":3}`, "clamped", 3, 40},
		{`{"offset":50}`, "exact", 50, 0},
		{`{"offset":51}`, "reset", 50, 0},
	} {
		t.Run(tt.from, func(t *testing.T) {
			c := r.connect()
			c.t = t
			c.send(`{"cmd":"sub","id":"a","topic":"price","from":` + tt.from + `}`)
			ack := c.event("subscribed")
			require.Equal(t, tt.resume, ack["resume"])
			require.Equal(t, map[string]any{"0": tt.first}, ack["from"])
			if tt.replayed < 0 {
				c.sync()
				return
			}
			data := 0.0
			for {
				f := c.frame()
				if f["event"] == "live" {
					require.Equal(t, tt.replayed, f["replayed"])
					break
				}
				if f["event"] == "gap" {
					continue
				}
				data++
			}
			require.Equal(t, tt.replayed, data)
		})
	}
}

func TestCursorResumesExactlyAcrossConnections(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 3)
	for i := range 300 {
		r.feed.produce("price", i%3, "", strconv.Itoa(i))
	}
	c := r.connect()
	c.send(`{"cmd":"sub","id":1,"topic":"price","from":"earliest","until":{"offsets":{"0":40,"1":50,"2":60}}}`)
	c.event("subscribed")
	c.offsets(150)
	var end map[string]any
	for end == nil {
		if f := c.frame(); f["event"] == "end" {
			end = f
		}
	}
	require.Equal(t, map[string]any{"0": 40.0, "1": 50.0, "2": 60.0}, end["at"])
	c = r.connect()
	c.send(`{"cmd":"sub","id":1,"topic":"price","from":{"cursor":"` + end["cursor"].(string) + `"},"until":"live"}`)
	ack := c.event("subscribed")
	require.Equal(t, "exact", ack["resume"])
	require.Equal(t, end["at"], ack["from"])
	c.offsets(150)
	c.event("live")
	c.event("end")
}
