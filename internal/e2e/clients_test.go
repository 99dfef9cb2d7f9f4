package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/client"
	"github.com/tapecast/tapecast/internal/brokertest"
)

// TestClientsOfAGatewayThatIsKilled kills and restarts the only gateway under
// load, and holds every event that the clients handed out against what Kafka
// acknowledged: none lost, none doubled, none out of order. TAPECAST_TEST_RESTARTS
// says how often (`make prove-clients`: 100), TAPECAST_TEST_CLIENTS_ON=kafka that
// it is on Apache Kafka, where Kafka's own consumer has the last word.
func TestClientsOfAGatewayThatIsKilled(t *testing.T) {
	env := brokertest.Start
	if os.Getenv("TAPECAST_TEST_CLIENTS_ON") == "kafka" {
		env = brokertest.Kafka
	}
	survive(t, env(t))
}

func survive(t *testing.T, env *brokertest.Env) {
	restarts := 5
	if v := os.Getenv("TAPECAST_TEST_RESTARTS"); v != "" {
		n, err := strconv.Atoi(v)
		require.NoError(t, err)
		restarts = n
	}
	s := newStack(t, strings.Join(env.Addrs, ","), 1, 1)
	topic := brokertest.Name(t, "survivors")
	bin, err := binary()
	require.NoError(t, err)
	run(t, bin, "topics", "create", topic, "--partitions", "2", "--replicas", "1", "--schema", "../../schemas/price.avsc",
		"--kafka", s.brokers, "--registry", s.registry)
	s.awaitTopic(t, topic)

	ctx, cancel := context.WithTimeout(t.Context(), patience+time.Duration(restarts)*time.Minute)
	defer cancel()
	ends := &ends{oracle: newLedger("kafka", nil)}
	ends.ledgers = append(ends.ledgers, goSurvivor(t, ctx, s.ws, topic, nil), goSurvivor(t, ctx, s.ws, topic, survivorKeys))
	ends.ledgers = append(ends.ledgers, jsSurvivors(t, ctx, s.ws, topic)...)
	for _, l := range ends.ledgers {
		l.await(t, ctx, func() bool { return l.ready })
	}
	begun := time.Now()
	loadCtx, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	var g errgroup.Group
	g.Go(func() error { return ends.load(loadCtx, s.ingest[0]+"/v1/topics/"+topic+"/events") })
	for range restarts {
		for _, l := range ends.ledgers {
			from := l.count()
			l.await(t, ctx, func() bool { return l.events >= from+20 }) // it is connected, and live
		}
		s.gateways[0].kill()
		s.gateways[0].restart()
	}
	stopLoad()
	require.NoError(t, g.Wait())
	ends.judge(t, ctx)
	if env.Name == "kafka" {
		ends.compare(t, dump(t, ctx, env.Addrs, topic))
	}
	line := fmt.Sprintf("on %s, %d clients of a gateway killed %d times in %s: %d events written, %d delivered, 0 lost, 0 doubled",
		env.Name, len(ends.ledgers), restarts, time.Since(begun).Round(time.Second), ends.oracle.count(), ends.delivered())
	t.Log(line)
	brokertest.Report(t, line)
}

var survivorKeys = []string{"k1", "k2", "k3"}

// ledger is what one client handed out, or what Kafka acknowledged.
type ledger struct {
	name string
	keys []string // nil = all

	mu      sync.Mutex
	changed chan struct{}
	ready   bool
	events  int
	at      map[int32]map[int64]int64 // partition, offset: value
	last    map[int32]int64
	wrong   []string
}

func newLedger(name string, keys []string) *ledger {
	return &ledger{name: name, keys: keys, changed: make(chan struct{}), at: map[int32]map[int64]int64{}, last: map[int32]int64{}}
}

func (l *ledger) note(fn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fn()
	close(l.changed)
	l.changed = make(chan struct{})
}

// add notes an event. Doubles, and events out of order, are wrong.
func (l *ledger) add(p int32, offset, value int64) {
	l.note(func() {
		if l.at[p] == nil {
			l.at[p], l.last[p] = map[int64]int64{}, -1
		}
		if _, had := l.at[p][offset]; had || offset <= l.last[p] {
			l.wrong = append(l.wrong, fmt.Sprintf("event %d:%d after %d", p, offset, l.last[p]))
		}
		l.at[p][offset], l.last[p] = value, offset
		l.events++
	})
}

func (l *ledger) fault(format string, args ...any) {
	l.note(func() { l.wrong = append(l.wrong, fmt.Sprintf(format, args...)) })
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events
}

func (l *ledger) await(t *testing.T, ctx context.Context, cond func() bool) {
	t.Helper()
	for {
		l.mu.Lock()
		ok, changed, wrong := cond(), l.changed, slices.Clone(l.wrong)
		l.mu.Unlock()
		require.Empty(t, wrong, l.name)
		if ok {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			require.FailNow(t, l.name+" waits in vain", "%d events", l.count())
		}
	}
}

// ends are the two ends of the pipeline.
type ends struct {
	oracle  *ledger
	ledgers []*ledger
}

// batch is how many events one request writes, every 20 ms.
const batch = 20

// load writes events through the ingest door until ctx ends. The value names
// the event: value % 10 is its key.
func (e *ends) load(ctx context.Context, url string) error {
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for n := int64(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-pace.C:
		}
		var body bytes.Buffer
		body.WriteByte('[')
		for i := range int64(batch) {
			fmt.Fprintf(&body, `%s{"key":"k%d","value":%d}`, map[bool]string{true: ","}[i > 0], (n+i)%10, n+i)
		}
		body.WriteByte(']')
		if err := e.write(url, &body, n); err != nil {
			return err
		}
		n += batch
	}
}

func (e *ends) write(url string, body io.Reader, n int64) error {
	resp, err := http.Post(url, "application/json", body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var acks struct {
		Offsets []struct {
			Partition int32
			Offset    int64
		}
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &acks); err != nil || len(acks.Offsets) != batch {
		return fmt.Errorf("ingest answers %d %s", resp.StatusCode, text)
	}
	for i, a := range acks.Offsets {
		e.oracle.add(a.Partition, a.Offset, n+int64(i))
	}
	return nil
}

// judge waits until every client has as many events as were acknowledged for
// it, and compares them one by one.
func (e *ends) judge(t *testing.T, ctx context.Context) {
	require.Empty(t, e.oracle.wrong)
	for _, l := range e.ledgers {
		want := e.oracle.at
		if l.keys != nil {
			want = map[int32]map[int64]int64{}
			for p, m := range e.oracle.at {
				want[p] = maps.Clone(m)
				maps.DeleteFunc(want[p], func(_, v int64) bool { return !slices.Contains(l.keys, fmt.Sprintf("k%d", v%10)) })
			}
		}
		total := 0
		for _, m := range want {
			total += len(m)
		}
		l.await(t, ctx, func() bool { return l.events >= total })
		l.judge(t, want, total)
	}
}

// judge compares the events one by one with those that were written for it.
func (l *ledger) judge(t *testing.T, want map[int32]map[int64]int64, total int) {
	l.mu.Lock()
	defer l.mu.Unlock() // at a failure too: the client ends only once it may write here
	for p, m := range want {
		require.True(t, maps.Equal(m, l.at[p]), "%s, partition %d: other events than were written", l.name, p)
	}
	require.Equal(t, total, l.events, l.name)
	require.Empty(t, l.wrong, l.name)
}

// compare holds what was acknowledged against what Kafka's own consumer reads.
func (e *ends) compare(t *testing.T, d *brokertest.Dump) {
	n := 0
	for p, recs := range d.Records {
		for _, r := range recs {
			_, known := e.oracle.at[p][r.Offset]
			require.True(t, known, "%d@%d is in the topic and was never acknowledged", p, r.Offset)
			n++
		}
	}
	require.Equal(t, e.oracle.count(), n, "what was acknowledged and what the topic holds")
}

func (e *ends) delivered() (n int) {
	for _, l := range e.ledgers {
		n += l.count()
	}
	return n
}

// goSurvivor is a Go client. It ends with the test.
func goSurvivor(t *testing.T, ctx context.Context, urls []string, topic string, keys []string) *ledger {
	l := newLedger(fmt.Sprintf("Go client, keys %v", keys), keys)
	c, err := client.Dial(ctx, client.Options{
		URLs: urls, MinBackoff: 20 * time.Millisecond, MaxBackoff: 500 * time.Millisecond,
		OnViolation: func(v client.Violation) { l.fault("violation %+v", v) },
	})
	require.NoError(t, err)
	sub, err := c.Subscribe(ctx, topic, client.SubscribeOptions{Keys: keys})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() { defer close(done); followGo(ctx, sub, l) }()
	t.Cleanup(func() { c.Close(); <-done })
	return l
}

func followGo(ctx context.Context, sub *client.Subscription, l *ledger) {
	for f, err := range sub.Frames(ctx) {
		var value int64
		switch {
		case err != nil:
			l.fault("ended: %v", err)
		case f.Kind == client.KindData:
			if err := f.Decode(&value); err != nil {
				l.fault("%s: %v", f.Raw, err)
			}
			l.add(f.Partition, f.Offset, value)
		case f.Kind == client.KindSubscribed && f.Resume == "exact":
			l.note(func() { l.ready = true })
		case f.Kind != client.KindLive && f.Kind != client.KindHeartbeat:
			l.fault("%s", f.Raw)
		}
	}
}

// jsSurvivors are the JavaScript client's two forms, in one Node process: an
// iterator over everything, callbacks for some keys.
func jsSurvivors(t *testing.T, ctx context.Context, urls []string, topic string) []*ledger {
	node, err := exec.LookPath("node")
	if err != nil {
		if os.Getenv("TAPECAST_TEST_REQUIRE_NODE") != "" {
			t.Fatal("node is not there")
		}
		t.Log("SKIPPED: node is not there: only the Go client is proved")
		return nil
	}
	args := []string{"../../clients/js/test/driver.mjs"}
	if out, err := exec.Command(node, "--version").Output(); err == nil && strings.HasPrefix(string(out), "v20.") {
		args = append([]string{"--experimental-websocket", "--no-warnings"}, args...)
	}
	cmd := exec.CommandContext(ctx, node, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	ledgers := map[string]*ledger{"all": newLedger("JavaScript client, iterator", nil), "some": newLedger("JavaScript client, callbacks", survivorKeys)}
	done := make(chan struct{})
	go func() { defer close(done); listenJS(out, ledgers) }()
	t.Cleanup(func() { _ = in.Close(); <-done; _ = cmd.Wait() })
	// Two clients: on one connection they would overlap.
	tell := json.NewEncoder(in)
	for _, o := range []map[string]any{
		{"do": "open", "run": 1, "urls": urls, "options": map[string]any{"minBackoff": 20, "maxBackoff": 500}},
		{"do": "subscribe", "as": "all", "topic": topic},
		{"do": "another", "run": 2, "urls": urls, "options": map[string]any{"minBackoff": 20, "maxBackoff": 500}},
		{"do": "subscribe", "as": "some", "topic": topic, "keys": survivorKeys, "callbacks": true},
	} {
		require.NoError(t, tell.Encode(o))
	}
	return []*ledger{ledgers["all"], ledgers["some"]}
}

func listenJS(out io.Reader, ledgers map[string]*ledger) {
	sc := bufio.NewScanner(out)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var s struct {
			As, Over  string
			Violation json.RawMessage
			Frame     *struct {
				Kind      string
				Partition int32
				Offset    int64
				Data      int64
				Resume    string
			}
		}
		if err := json.Unmarshal(sc.Bytes(), &s); err != nil {
			ledgers["all"].fault("%s: %v", sc.Text(), err)
			return
		}
		l := ledgers[s.As]
		switch f := s.Frame; {
		case s.Violation != nil:
			ledgers["all"].fault("%s", sc.Text())
		case s.Over != "":
			l.fault("ended: %s", s.Over)
		case f == nil:
		case f.Kind == "data":
			l.add(f.Partition, f.Offset, f.Data)
		case f.Kind == "subscribed" && f.Resume == "exact":
			l.note(func() { l.ready = true })
		case f.Kind != "live":
			l.fault("%s", sc.Text())
		}
	}
}
