package interestlog_test

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/interestlog"
	"github.com/tapecast/tapecast/internal/stream"
)

// folder is a handler that remembers what it was told.
type folder struct {
	mu      sync.Mutex
	resets  []stream.TopicID
	ids     []string // since the last reset
	bad     int
	pos     stream.InterestPos
	caught  stream.InterestPos
	watch   chan struct{} // closed at the next call
	regress bool          // a position went back
}

func newFolder() *folder { return &folder{watch: make(chan struct{})} }

func (f *folder) told() {
	close(f.watch)
	f.watch = make(chan struct{})
}

func (f *folder) Reset(log stream.TopicID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resets = append(f.resets, log)
	f.ids, f.pos = nil, stream.InterestPos{Log: log, Offset: -1}
	f.told()
}

func (f *folder) Apply(pos stream.InterestPos, r interest.Record, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.regress = f.regress || pos.Log != f.pos.Log || pos.Offset <= f.pos.Offset
	f.pos = pos
	if ok {
		f.ids = append(f.ids, r.ID)
	} else {
		f.bad++
	}
	f.told()
}

func (f *folder) Caught(pos stream.InterestPos) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.regress = f.regress || pos.Log != f.pos.Log || pos.Offset < f.pos.Offset
	f.caught = pos
	f.told()
}

// await waits until cond holds, which is called with the lock held.
func (f *folder) await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		f.mu.Lock()
		ok, watch := cond(), f.watch
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-watch:
		case <-timeout:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func write(t *testing.T, c *broker.Client, recs ...interest.Record) int64 {
	t.Helper()
	batch := make([]broker.AppendRecord, 0, len(recs))
	for _, r := range recs {
		key, value, err := r.Encode()
		require.NoError(t, err)
		batch = append(batch, broker.AppendRecord{Key: key, Value: value})
	}
	base, err := c.Append(t.Context(), interest.Topic, 0, batch)
	require.NoError(t, err)
	return base
}

func add(id string) interest.Record {
	return interest.Record{Kind: interest.KindAdd, Incarnation: "inc", ID: id, Feed: "quotes"}
}

func follow(t *testing.T, c *broker.Client, f *folder) *interestlog.Follower {
	t.Helper()
	fo := interestlog.NewFollower(c, f, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fo.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return fo
}

func TestEnsureMakesACompactedTopicOnce(t *testing.T) {
	env := brokertest.Start(t)
	id, err := interestlog.Ensure(t.Context(), env.Client, 1)
	require.NoError(t, err)
	again, err := interestlog.Ensure(t.Context(), env.Client, 1)
	require.NoError(t, err)
	require.Equal(t, id, again)
	cfg, err := env.Client.TopicConfig(t.Context(), interest.Topic)
	require.NoError(t, err)
	require.Equal(t, "compact", cfg["cleanup.policy"])
	require.Equal(t, "300000", cfg["delete.retention.ms"])
	require.Equal(t, "300000", cfg["segment.ms"])
}

func TestEnsureRefusesATopicThatLosesInterests(t *testing.T) {
	for name, tc := range map[string]struct {
		partitions int
		policy     string
	}{
		"deletes by age":      {1, "delete"},
		"compacts and ages":   {1, "compact,delete"},
		"too many partitions": {2, "compact"},
	} {
		t.Run(name, func(t *testing.T) {
			env := brokertest.Start(t)
			env.Create(t, interest.Topic, tc.partitions, "cleanup.policy", tc.policy)
			_, err := interestlog.Ensure(t.Context(), env.Client, 1)
			var unfit *interestlog.UnfitError
			require.ErrorAs(t, err, &unfit)
			require.NotEmpty(t, unfit.Remedy)
		})
	}
}

func TestFollowsFromTheFirstRecordInOrder(t *testing.T) {
	env := brokertest.Start(t)
	id, err := interestlog.Ensure(t.Context(), env.Client, 1)
	require.NoError(t, err)
	write(t, env.Client, add("1"), add("2"))
	_, err = env.Client.Append(t.Context(), interest.Topic, 0, []broker.AppendRecord{{Key: []byte("nonsense"), Value: []byte("x")}})
	require.NoError(t, err)

	f := newFolder()
	fo := follow(t, env.Client, f)
	require.NoError(t, fo.Sync(t.Context()))
	f.mu.Lock()
	require.Equal(t, []string{"1", "2"}, f.ids)
	require.Equal(t, 1, f.bad)
	require.Equal(t, []stream.TopicID{id}, f.resets)
	f.mu.Unlock()

	last := write(t, env.Client, add("3"))
	require.NoError(t, fo.Sync(t.Context()))
	f.mu.Lock()
	require.Equal(t, []string{"1", "2", "3"}, f.ids)
	require.Equal(t, stream.InterestPos{Log: id, Offset: last}, f.pos)
	require.False(t, f.regress)
	f.mu.Unlock()
	f.await(t, "caught up", func() bool { return f.caught.Offset == last })
}

func TestSyncSeesWhatWasWrittenBeforeTheCall(t *testing.T) {
	env := brokertest.Start(t)
	_, err := interestlog.Ensure(t.Context(), env.Client, 1)
	require.NoError(t, err)
	f := newFolder()
	fo := follow(t, env.Client, f)
	for i := range 30 {
		want := write(t, env.Client, add(strconv.Itoa(i)))
		require.NoError(t, fo.Sync(t.Context()))
		f.mu.Lock()
		got := f.pos.Offset
		f.mu.Unlock()
		require.GreaterOrEqual(t, got, want)
	}
}

func TestAnotherLogUnderTheSameNameBeginsAnew(t *testing.T) {
	env := brokertest.Start(t)
	was, err := interestlog.Ensure(t.Context(), env.Client, 1)
	require.NoError(t, err)
	write(t, env.Client, add("old-1"), add("old-2"), add("old-3"))
	f := newFolder()
	fo := follow(t, env.Client, f)
	require.NoError(t, fo.Sync(t.Context()))

	require.NoError(t, env.Client.DeleteTopic(t.Context(), interest.Topic))
	now, err := interestlog.Ensure(t.Context(), env.Client, 1)
	require.NoError(t, err)
	require.NotEqual(t, was, now)
	write(t, env.Client, add("new"))
	require.NoError(t, fo.Sync(t.Context()))
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Equal(t, []stream.TopicID{was, now}, f.resets)
	require.Equal(t, []string{"new"}, f.ids)
	require.False(t, f.regress)
}

func TestWaitsForATopicThatIsNotThereYet(t *testing.T) {
	env := brokertest.Start(t)
	f := newFolder()
	fo := follow(t, env.Client, f)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, fo.Sync(ctx), context.DeadlineExceeded)

	_, err := interestlog.Ensure(t.Context(), env.Client, 1)
	require.NoError(t, err)
	write(t, env.Client, add("1"))
	require.NoError(t, fo.Sync(t.Context()))
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Equal(t, []string{"1"}, f.ids)
}

// What the cleaner removed from the log's head is superseded, so whoever was
// away meanwhile goes on at the first record there is; a new reader begins there.
func TestBeginsAtTheFirstRecordThatIsThere(t *testing.T) {
	env := brokertest.Start(t)
	_, err := interestlog.Ensure(t.Context(), env.Client, 1)
	require.NoError(t, err)
	write(t, env.Client, add("1"), add("2"), add("3"), add("4"))
	cl, err := kgo.NewClient(kgo.SeedBrokers(env.Addrs...))
	require.NoError(t, err)
	defer cl.Close()
	offsets := kadm.Offsets{}
	offsets.AddOffset(interest.Topic, 0, 2, -1)
	_, err = kadm.NewClient(cl).DeleteRecords(t.Context(), offsets)
	require.NoError(t, err)
	b, err := env.Client.Bounds(t.Context(), interest.Topic, []int32{0})
	require.NoError(t, err)
	require.EqualValues(t, 2, b[0].Start)

	f := newFolder()
	fo := follow(t, env.Client, f)
	require.NoError(t, fo.Sync(t.Context()))
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Equal(t, []string{"3", "4"}, f.ids)
	require.Len(t, f.resets, 1)
}
