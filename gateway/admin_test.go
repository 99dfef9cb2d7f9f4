package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/inspect"
)

// admin asks one of the operators' pages.
func (r *rig) admin(path string, out any) int {
	r.t.Helper()
	mux := http.NewServeMux()
	r.service.RegisterAdmin(mux)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
	if out != nil {
		require.NoError(r.t, json.Unmarshal(w.Body.Bytes(), out), "%s", w.Body)
	}
	return w.Code
}

// sessionsNow asks the sessions anew, whatever was said a moment ago.
func (r *rig) sessionsNow(query string) (a sessionsAnswer) {
	r.t.Helper()
	r.service.surveying.Lock()
	r.service.surveyed = surveyed{}
	r.service.surveying.Unlock()
	require.Equal(r.t, http.StatusOK, r.admin("/v1/admin/sessions"+query, &a))
	return a
}

const adminPatience = 20 * time.Second

func TestOperatorsSeeTheSessions(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 2)
	for i := range 10 {
		r.feed.produce("price", i%2, "k"+strconv.Itoa(i), strconv.Itoa(i))
	}
	idle, live := r.connect(), r.connect()
	live.send(`{"cmd":"sub","id":1,"topic":"price","keys":["k1","k2"]}`)
	live.event("subscribed")
	var got sessionsAnswer
	require.Eventually(t, func() bool {
		got = r.sessionsNow("")
		return got.Counts[stateLive] == 1 && got.Counts[stateIdle] == 1
	}, adminPatience, 10*time.Millisecond)
	require.Equal(t, 2, got.Counts["open"])
	require.Equal(t, stateLive, got.Sessions[0].State, "the worse first")
	sub := got.Sessions[0].Subs[0]
	require.Equal(t, "price", sub.Topic)
	require.Equal(t, 2, sub.Keys)
	require.Equal(t, map[string]int64{"0": 5, "1": 5}, sub.At)
	require.Zero(t, *sub.Behind)

	got = r.sessionsNow("?state=live&limit=1")
	require.Len(t, got.Sessions, 1)
	require.Equal(t, 1, got.Matching)
	for _, q := range []string{"limit=0", "limit=1001", "limit=x", "state=well"} {
		require.Equal(t, http.StatusBadRequest, r.admin("/v1/admin/sessions?"+q, nil), q)
	}
	require.NoError(t, idle.ws.Close())
	require.Eventually(t, func() bool {
		got = r.sessionsNow("")
		return got.Counts["open"] == 1 && len(got.Closed) == 1
	}, adminPatience, 10*time.Millisecond)
	require.NotEmpty(t, got.Closed[0].Reason)
}

func TestTraceCountsTheSessionsByTheirCursors(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	for i := range 4 {
		r.feed.produce("price", 0, "", strconv.Itoa(i))
	}
	all, late := r.connect(), r.connect()
	all.send(`{"cmd":"sub","id":1,"topic":"price","from":"earliest"}`)
	late.send(`{"cmd":"sub","id":1,"topic":"price"}`)
	late.event("subscribed")
	ask := func(offset string) traceSessions {
		var got traceAnswer
		require.Equal(t, http.StatusOK, r.admin("/v1/admin/trace/price/0/"+offset, &got))
		return *got.Sessions
	}
	require.Eventually(t, func() bool { return ask("2") == traceSessions{Matching: 1, Passed: 1} }, adminPatience, 10*time.Millisecond)
	require.Eventually(t, func() bool { return ask("9") == traceSessions{Matching: 2, Waiting: 2} }, adminPatience, 10*time.Millisecond)
	require.Equal(t, http.StatusNotFound, r.admin("/v1/admin/trace/nope/0/1", nil))
	for _, at := range []string{"-1/0", "x/0", "0/-1", "0/x", "9999999999/0", "99/0"} {
		require.Equal(t, http.StatusBadRequest, r.admin("/v1/admin/trace/price/"+at, nil), at)
	}
}

// oracle stands for Kafka.
type oracle struct{ err error }

func (o oracle) Topic(_ context.Context, t broker.Topic, b map[int32]broker.Bounds) (inspect.Topic, error) {
	return inspect.Topic{Lag: b[0].End - 1, Oldest: 1000, Newest: 2000}, o.err
}

func (o oracle) Trace(_ context.Context, _ broker.Topic, _ int32, offset int64) (inspect.Event, []inspect.Delivery, int, error) {
	if offset > 3 {
		return inspect.Event{}, nil, 0, o.err
	}
	return inspect.Event{Found: true, Key: []byte("k"), Time: 5, Accepted: 5100}, []inspect.Delivery{
		{Node: "g2", Incarnation: "b", Writer: "f0", ReadFirst: 5000, ReadLast: 5300, Written: 5400},
		{Node: "g1", Incarnation: "a", Writer: "f0", ReadFirst: 5200, ReadLast: 5200, Written: 5250},
	}, 2, o.err
}

func TestOperatorsSeeTheTopics(t *testing.T) {
	r := newRig(t, false, func(o *Options) { o.Inspector = oracle{} })
	r.feed.add("price", 1)
	r.feed.add("quotes", 1)
	for i := range 4 {
		r.feed.produce("price", 0, "k", strconv.Itoa(i))
	}
	c := r.connect()
	c.send(`{"cmd":"sub","id":1,"topic":"price"}`)
	c.event("subscribed")
	var got topicsAnswer
	require.Equal(t, http.StatusOK, r.admin("/v1/admin/topics", &got))
	require.Equal(t, 2, got.Total)
	require.Len(t, got.Topics, 2)
	find := func(name string) topicView {
		for _, v := range got.Topics {
			if v.Name == name {
				return v
			}
		}
		require.FailNow(t, "no topic "+name)
		return topicView{}
	}
	price := find("price")
	require.Equal(t, 1, price.Subscribers)
	require.EqualValues(t, 4, price.End)
	require.EqualValues(t, 3, *price.Lag)
	require.EqualValues(t, 1000, price.Oldest)
	require.EqualValues(t, 2000, price.Newest)
	require.Nil(t, price.Rate, "there is nothing to count from yet")
	require.Zero(t, find("quotes").Subscribers, "a topic that nobody wants is listed, too")

	// The next answer has rates, and what could not be asked is said.
	r.feed.produce("price", 0, "k", "5")
	r.service.topics.mu.Lock()
	r.service.topics.at = time.Now().Add(-2 * topicsAge)
	r.service.topics.mu.Unlock()
	r.service.bounds.mu.Lock()
	clear(r.service.bounds.kept)
	r.service.bounds.mu.Unlock()
	r.service.o.Inspector = oracle{errors.New("nobody there")}
	require.Equal(t, http.StatusOK, r.admin("/v1/admin/topics", &got))
	require.EqualValues(t, 5, find("price").End)
	require.Equal(t, "nobody there", find("price").Error)
}

func TestTraceTellsToWhichNodes(t *testing.T) {
	r := newRig(t, false, func(o *Options) { o.Inspector = oracle{} })
	r.feed.add("price", 1)
	var got traceAnswer
	require.Equal(t, http.StatusOK, r.admin("/v1/admin/trace/price/0/2", &got))
	require.Equal(t, []traceNode{{"g1", "a", "f0", 5200, 5250}, {"g2", "b", "f0", 5100, 5400}}, got.Nodes,
		"in the order of writing; one that was merged was not read before it was accepted")
	require.EqualValues(t, 5100, got.Hops["accepted"])
	require.Equal(t, "k", *got.Key)
	got = traceAnswer{}
	require.Equal(t, http.StatusOK, r.admin("/v1/admin/trace/price/0/9", &got))
	require.Empty(t, got.Nodes)
	require.Contains(t, strings.Join(got.Notes, " "), "Kafka does not have it")
	r.service.o.Inspector = oracle{errors.New("nobody there")}
	require.Equal(t, http.StatusOK, r.admin("/v1/admin/trace/price/0/2", &got))
	require.Contains(t, strings.Join(got.Notes, " "), "nobody there")
}

// A client that takes nothing shows by what waits for it.
func TestOperatorsSeeWhatWaitsForAClient(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: only Linux tells what the kernel holds")
	}
	r := newRig(t, false)
	r.feed.add("price", 1)
	c := r.connect()
	c.send(`{"cmd":"sub","id":1,"topic":"price"}`)
	c.event("subscribed")
	big := `"` + strings.Repeat("x", 256<<10) + `"`
	require.Eventually(t, func() bool {
		r.feed.produce("price", 0, "k", big)
		got := r.sessionsNow("")
		return got.Sessions[0].State == stateBlocked && got.Sessions[0].Buffered > 64<<10
	}, adminPatience, 10*time.Millisecond)
}
