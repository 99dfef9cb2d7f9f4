package gateway

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/protocol"
)

func TestGapsAreToldInOrderAndMerged(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	for i := range 20 {
		data := strconv.Itoa(i)
		if i >= 12 && i < 15 {
			data = "poison"
		}
		r.feed.produce("price", 0, "", data)
	}
	r.feed.change("price", func(tp *fakeTopic) { tp.retain(0, 10) })
	c := r.connect()
	c.send(`{"cmd":"sub","id":"x","topic":"price","from":{"offset":4}}`)
	require.Equal(t, "clamped", c.event("subscribed")["resume"])
	c.expect(`{"event":"gap","id":"x","topic":"price","partition":0,"from":4,"to":10,"cause":"retention"}`)
	require.Equal(t, []int64{10, 11}, c.offsets(2))
	c.expect(`{"event":"gap","id":"x","topic":"price","partition":0,"from":12,"to":15,"cause":"poison"}`)
	require.Equal(t, seq(15, 20), c.offsets(5))
	require.Equal(t, 7.0, c.event("live")["replayed"])

	// Level 0 passes a gap in silence.
	plain := r.connect()
	plain.send(`{"cmd":"sub","topic":"price"}`)
	plain.sync()
	r.feed.produce("price", 0, "", "poison")
	r.feed.produce("price", 0, "", "1")
	require.Equal(t, []int64{21}, plain.offsets(1))
}

func TestATopicMadeAgainResets(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	r.feed.fill(t, "price", 0, 10, noKey)
	c := r.connect()
	c.send(`{"cmd":"sub","id":1,"topic":"price","from":{"offset":8}}`)
	old := c.event("subscribed")
	c.offsets(2)
	c.event("live")
	r.feed.change("price", func(tp *fakeTopic) {
		tp.id = epochOf(2)
		tp.parts = []*fakeLog{{}, {}}
	})
	reset := c.event("reset")
	require.Equal(t, "epoch", reset["cause"])
	require.Equal(t, map[string]any{"0": 0.0, "1": 0.0}, reset["from"])
	require.Equal(t, epochOf(2).String(), reset["epoch"])
	c.expect(`{"event":"gap","id":1,"topic":"price","partition":0,"from":10,"to":0,"cause":"epoch"}`)
	r.feed.produce("price", 1, "", "1")
	require.Equal(t, []int64{0}, c.offsets(1))

	again := r.connect()
	again.send(`{"cmd":"sub","id":1,"topic":"price","from":{"cursor":"` + old["cursor"].(string) + `"}}`)
	ack := again.event("subscribed")
	require.Equal(t, "reset", ack["resume"])
	require.Equal(t, map[string]any{"0": 0.0, "1": 0.0}, ack["from"])
	again.expect(`{"event":"gap","id":1,"topic":"price","partition":0,"from":8,"to":0,"cause":"epoch"}`)
	require.Equal(t, []int64{0}, again.offsets(1))

	r.feed.change("price", func(tp *fakeTopic) { tp.gone = true })
	gone := again.event("live")
	require.NotNil(t, gone)
	require.Equal(t, "topic_gone", again.event("error")["code"])
}

func TestPartitionsThatComeLaterBeginAtZero(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	r.feed.fill(t, "price", 0, 3, noKey)
	c := r.connect()
	c.send(`{"cmd":"sub","id":1,"topic":"price"}`)
	ack := c.event("subscribed")
	r.feed.change("price", func(tp *fakeTopic) { tp.parts = append(tp.parts, &fakeLog{}) })
	r.feed.produce("price", 1, "", "1")
	require.Equal(t, map[string]any{"1": map[string]any{"0": 3.0, "1": 0.0}}, c.event("heartbeat")["covered"])
	f := c.frame()
	require.Equal(t, 1.0, f["partition"])
	require.Equal(t, 0.0, f["offset"])

	again := r.connect()
	again.send(`{"cmd":"sub","id":1,"topic":"price","from":{"cursor":"` + ack["cursor"].(string) + `"}}`)
	require.Equal(t, map[string]any{"0": 3.0, "1": 0.0}, again.event("subscribed")["from"])
	require.Equal(t, []int64{0}, again.offsets(1))
}

func TestSnapshotThenEveryEvent(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 2)
	for i := range 30 {
		r.feed.produce("price", i%2, fmt.Sprintf("k%d", i%6), strconv.Itoa(i))
	}
	r.feed.produce("price", 0, "k0", "null")
	c := r.connect()
	c.send(`{"cmd":"sub","id":1,"topic":"price","mode":"snapshot"}`)
	ack := c.event("subscribed")
	require.Equal(t, map[string]any{"0": 16.0, "1": 15.0}, ack["from"])
	require.Equal(t, "snapshot", ack["mode"])
	got := map[string]float64{}
	for range 5 {
		f := c.frame()
		require.Equal(t, true, f["snapshot"], "%v", f)
		got[f["key"].(string)] = f["data"].(float64)
	}
	require.Equal(t, map[string]float64{"k1": 25, "k2": 26, "k3": 27, "k4": 28, "k5": 29}, got)
	live := c.event("live")
	require.Equal(t, ack["from"], live["at"])
	require.Equal(t, 5.0, live["replayed"])
	r.feed.produce("price", 0, "k0", "99")
	c.expect(`{"topic":"price","key":"k0","data":99,"offset":16,"ts":1546383600016}`)
}

func TestASnapshotIsBounded(t *testing.T) {
	r := newRig(t, false, func(o *Options) { o.SnapshotKeys = 10; o.SnapshotBytes = 2000 })
	r.feed.add("keys", 1)
	r.feed.fill(t, "keys", 0, 11, func(i int) string { return "k" + strconv.Itoa(i) })
	r.feed.add("bytes", 1)
	r.feed.produce("bytes", 0, "a", `"`+strings.Repeat("x", 2000)+`"`)
	c := r.connect()
	for _, topic := range []string{"keys", "bytes"} {
		c.send(`{"cmd":"sub","id":"` + topic + `","topic":"` + topic + `","mode":"snapshot"}`)
		e := c.event("error")
		require.Equal(t, "too_large", e["code"])
		require.Equal(t, topic, e["id"])
	}
	c.send(`{"cmd":"sub","id":1,"topic":"keys","mode":"snapshot","keys":["k1","k2"]}`)
	c.event("subscribed")
	c.offsets(2)
	c.event("live")
	require.Zero(t, r.service.rules.snapshots.used.Load())
}

func TestASnapshotThatIsCutShortGivesItsRoomBack(t *testing.T) {
	r := newRig(t, false)
	r.feed.gate = make(chan struct{})
	r.feed.add("price", 1)
	r.feed.fill(t, "price", 0, 50, func(i int) string { return "k" + strconv.Itoa(i) })
	used := func() int64 { return r.service.rules.snapshots.used.Load() }
	for _, unsub := range []bool{false, true} {
		c := r.connect()
		c.send(`{"cmd":"sub","id":1,"topic":"price","mode":"snapshot"}`)
		require.Eventually(t, func() bool { return used() > 0 }, waitLong, tick)
		if unsub {
			c.send(`{"cmd":"unsub","id":1}`)
			c.event("unsubscribed")
		} else {
			_ = c.ws.Close()
		}
		require.Eventually(t, func() bool { return used() == 0 && r.feed.holds() == 0 }, waitLong, tick)
	}
}

func TestLatestSendsTheNewestPerKeyEveryInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true)
		r.feed.add("price", 1)
		c := r.connect()
		c.send(`{"cmd":"sub","id":1,"topic":"price","mode":"latest","interval_ms":1000}`)
		c.event("subscribed")
		r.feed.produce("price", 0, "a", "0")
		require.Equal(t, []int64{0}, c.offsets(1)) // nothing was sent before: at once
		start := time.Now()
		for i := 1; i < 100; i++ {
			r.feed.produce("price", 0, []string{"a", "b"}[i%2], strconv.Itoa(i))
		}
		require.Equal(t, []int64{98, 99}, c.offsets(2))
		require.Equal(t, time.Second, time.Since(start))
		beat := c.event("heartbeat")
		require.Equal(t, map[string]any{"1": 97.0}, beat["skipped"])
		require.Equal(t, map[string]any{"1": map[string]any{"0": 100.0}}, beat["covered"])
		_ = c.ws.Close()
	})
}

func TestASlowClientMayAskForTheNewestValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true)
		r.feed.add("price", 1)
		r.feed.produce("price", 0, "a", "0")
		c := r.connect()
		c.send(`{"cmd":"sub","id":1,"topic":"price","on_slow":"latest"}`)
		c.event("subscribed")
		synctest.Wait()
		r.feed.change("price", func(tp *fakeTopic) { tp.parts[0].tape, tp.parts[0].pending = 1<<40, true })
		for i := 1; i < 10; i++ {
			r.feed.produce("price", 0, []string{"a", "b"}[i%2], strconv.Itoa(i))
		}
		time.Sleep(2 * time.Second)
		r.feed.change("price", func(tp *fakeTopic) { tp.parts[0].pending = false })
		c.expect(`{"event":"gap","id":1,"topic":"price","partition":0,"from":1,"to":10,"cause":"slow"}`)
		c.expect(`{"topic":"price","key":"a","data":8,"offset":8,"ts":1546383600008,"latest":true}`)
		c.expect(`{"topic":"price","key":"b","data":9,"offset":9,"ts":1546383600009,"latest":true}`)
		r.feed.change("price", func(tp *fakeTopic) { tp.parts[0].tape = 0 })
		r.feed.produce("price", 0, "a", "10")
		c.expect(`{"topic":"price","key":"a","data":10,"offset":10,"ts":1546383600010}`)
		require.Equal(t, map[string]any{"1": map[string]any{"0": 11.0}}, c.event("heartbeat")["covered"])
		_ = c.ws.Close()
	})
}

func TestHeartbeatsCoverWhatDidNotMatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true)
		r.feed.add("price", 1)
		c := r.connect()
		c.send(`{"cmd":"sub","id":"f","topic":"price","keys":["EURUSD"]}`)
		c.event("subscribed")
		for i := range 50 {
			r.feed.produce("price", 0, "USDJPY", strconv.Itoa(i))
		}
		start := time.Now()
		for range 3 {
			beat := c.event("heartbeat")
			require.Equal(t, map[string]any{"f": map[string]any{"0": 50.0}}, beat["covered"])
			cursor, err := protocol.ParseCursor(beat["cursor"].(map[string]any)["f"].(string))
			require.NoError(t, err)
			require.Equal(t, []int64{50}, cursor.Next)
		}
		require.Equal(t, 15*time.Second, time.Since(start))
		_ = c.ws.Close()
	})
}

func TestUntilFormsEnd(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	r.feed.fill(t, "price", 0, 50, noKey)
	for until, n := range map[string]int{
		`"live"`: 50, `{"offset":20}`: 20, `{"offsets":{"0":7}}`: 7, `{"time":1546383600033}`: 33, `{"offset":0}`: 0,
	} {
		for _, mode := range []string{"all", "latest"} {
			c := r.connect()
			c.send(`{"cmd":"sub","id":1,"topic":"price","from":"earliest","mode":"` + mode + `","until":` + until + `}`)
			c.event("subscribed")
			got := 0
			for {
				f := c.frame()
				if f["event"] == "end" {
					require.Equal(t, map[string]any{"0": float64(n)}, f["at"], until)
					break
				}
				if f["event"] == nil {
					got++
				}
			}
			if mode == "all" {
				require.Equal(t, n, got, until)
			}
			_ = c.ws.Close()
		}
	}
}

func TestSubscriptionsOfOneConnectionShareFairly(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("busy", 1)
	r.feed.add("quiet", 1)
	for i := range 5000 {
		r.feed.produce("busy", 0, "", `"`+strings.Repeat("x", 1000)+strconv.Itoa(i)+`"`)
	}
	r.feed.produce("quiet", 0, "", "1")
	c := r.connect()
	c.send(`{"cmd":"sub","id":"busy","topic":"busy","from":"earliest"}`)
	c.send(`{"cmd":"sub","id":"quiet","topic":"quiet","from":"earliest"}`)
	busy := 0
	for {
		f := c.frame()
		if f["topic"] == "busy" && f["event"] == nil {
			busy++
		}
		if f["topic"] == "quiet" && f["event"] == nil {
			break
		}
	}
	require.Less(t, busy, 4000)
}
