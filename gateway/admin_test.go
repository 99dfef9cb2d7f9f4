package gateway

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
	for _, at := range []string{"-1/0", "x/0", "0/-1", "0/x", "9999999999/0"} {
		require.Equal(t, http.StatusBadRequest, r.admin("/v1/admin/trace/price/"+at, nil), at)
	}
}
