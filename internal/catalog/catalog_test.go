package catalog

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/stream"
)

// fakeCluster answers from memory.
type fakeCluster struct {
	mu     sync.Mutex
	topics []broker.Topic
	err    error
	asked  int
	hold   time.Duration // how long an answer takes
}

func (f *fakeCluster) Topics(ctx context.Context, _ ...string) ([]broker.Topic, error) {
	f.mu.Lock()
	f.asked++
	topics, err, hold := f.topics, f.err, f.hold
	f.mu.Unlock()
	if hold > 0 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(hold):
		}
	}
	return topics, err
}

func (f *fakeCluster) set(err error, topics ...broker.Topic) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.topics, f.err = topics, err
}

func (f *fakeCluster) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func topic(name string, id byte, partitions int) broker.Topic {
	t := broker.Topic{Name: name, ID: stream.TopicID{id}}
	for i := range partitions {
		t.Partitions = append(t.Partitions, broker.Partition{ID: int32(i)})
	}
	return t
}

func names(feeds []Feed) []string {
	out := []string{}
	for _, f := range feeds {
		out = append(out, f.Name)
	}
	return out
}

func newTest(t *testing.T, f *fakeCluster, rules ...Rule) *Catalog {
	t.Helper()
	c, err := newCatalog(f, Options{Rules: rules})
	require.NoError(t, err)
	return c
}

func TestFirstRuleDecidesAndInternalTopicsNeverMatch(t *testing.T) {
	f := &fakeCluster{}
	f.set(nil,
		topic("quotes", 1, 2), topic("md.price", 2, 1), topic("secret.pay", 3, 1), topic("secret.open", 4, 1),
		topic("tapecast.delivery.n1", 5, 1), topic("__consumer_offsets", 6, 50), topic("_schemas", 7, 1),
		topic("_confluent-metrics", 8, 1), topic("being-made", 9, 0),
		broker.Topic{Name: "flagged", Internal: true, Partitions: []broker.Partition{{}}},
	)
	c := newTest(t, f,
		Rule{Pattern: "md.price", Name: "price", Format: FormatJSON},
		Rule{Pattern: "secret.open"},
		Rule{Pattern: "secret.*", Deny: true},
		Rule{Pattern: "*"})
	require.Empty(t, c.Feeds())
	require.True(t, c.Synced().IsZero())
	require.NoError(t, c.Refresh(t.Context()))
	require.Equal(t, []string{"price", "quotes", "secret.open"}, names(c.Feeds()))
	require.False(t, c.Synced().IsZero())

	p, ok := c.Feed("price")
	require.True(t, ok)
	require.Equal(t, "md.price", p.Topic.Name)
	require.Equal(t, FormatJSON, p.Format)
	_, ok = c.Feed("md.price")
	require.False(t, ok, "the Kafka name of a mapped topic is no client's name")
	p, ok = c.ByTopic("md.price")
	require.True(t, ok)
	require.Equal(t, "price", p.Name)
	q, _ := c.Feed("quotes")
	require.Equal(t, FormatAvro, q.Format)
}

func TestNoRulesAllowNothing(t *testing.T) {
	f := &fakeCluster{}
	f.set(nil, topic("quotes", 1, 1))
	c := newTest(t, f)
	require.NoError(t, c.Refresh(t.Context()))
	require.Empty(t, c.Feeds())
}

func TestRuleMistakes(t *testing.T) {
	for name, tc := range map[string]struct {
		rules []Rule
		want  string
	}{
		"empty pattern":      {[]Rule{{}}, "a pattern is"},
		"bad character":      {[]Rule{{Pattern: "a/b"}}, "a pattern is"},
		"dots":               {[]Rule{{Pattern: ".."}}, "a pattern is"},
		"too long":           {[]Rule{{Pattern: strings.Repeat("a", 250)}}, "a pattern is"},
		"internal":           {[]Rule{{Pattern: "tapecast.interest"}}, "internal topics"},
		"internal name":      {[]Rule{{Pattern: "a", Name: "__a"}}, "is no name"},
		"name of a glob":     {[]Rule{{Pattern: "a*", Name: "b"}}, "exact pattern"},
		"name of a deny":     {[]Rule{{Pattern: "a", Name: "b", Deny: true}}, "can give no name"},
		"format":             {[]Rule{{Pattern: "a", Format: "xml"}}, "unknown format"},
		"format file":        {[]Rule{{Pattern: "a", Format: "avro:"}}, "unknown format"},
		"two of one name":    {[]Rule{{Pattern: "a", Name: "x"}, {Pattern: "b", Name: "x"}}, `already that of topic "a"`},
		"name of a neighbor": {[]Rule{{Pattern: "a", Name: "b"}, {Pattern: "b"}}, `already that of topic "a"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newCatalog(&fakeCluster{}, Options{Rules: tc.rules})
			require.ErrorContains(t, err, tc.want)
		})
	}
	// Hidden or denied rules claim no name; all mistakes show at once.
	_, err := newCatalog(&fakeCluster{}, Options{Rules: []Rule{{Pattern: "a", Name: "b"}, {Pattern: "b", Deny: true}, {Pattern: "b"}}})
	require.NoError(t, err)
	_, err = newCatalog(&fakeCluster{}, Options{Rules: []Rule{{}, {Pattern: "a", Format: "x"}}})
	require.ErrorContains(t, err, "rule 0")
	require.ErrorContains(t, err, "rule 1")
	_, err = New(Options{})
	require.Error(t, err)
}

func TestOneNameForTwoTopicsGoesToTheEarlierRule(t *testing.T) {
	rules := []Rule{{Pattern: "md.price", Name: "price"}, {Pattern: "*"}}
	a, b := topic("md.price", 1, 1), topic("price", 2, 1)
	for _, order := range [][]broker.Topic{{a, b}, {b, a}} {
		f := &fakeCluster{}
		f.set(nil, order...)
		c := newTest(t, f, rules...)
		require.NoError(t, c.Refresh(t.Context()))
		p, ok := c.Feed("price")
		require.True(t, ok)
		require.Equal(t, "md.price", p.Topic.Name)
		_, ok = c.ByTopic("price")
		require.False(t, ok)
		require.Len(t, c.Feeds(), 1)
	}
}

func TestChangesWakeAndSamenessDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCluster{}
		c := newTest(t, f, Rule{Pattern: "*"})
		refresh := func(topics ...broker.Topic) bool {
			f.set(nil, topics...)
			ch := c.Changed()
			require.NoError(t, c.Refresh(t.Context()))
			select {
			case <-ch:
				return true
			default:
				return false
			}
		}
		require.False(t, refresh())
		require.True(t, refresh(topic("a", 1, 1)), "a topic more")
		require.False(t, refresh(topic("a", 1, 1)))
		require.True(t, refresh(topic("a", 1, 2)), "a partition more")
		require.False(t, refresh(topic("a", 1, 1)), "a broker whose metadata is behind")
		feed, _ := c.Feed("a")
		require.Len(t, feed.Partitions, 2)
		require.True(t, refresh(topic("a", 2, 1)), "another incarnation")
		feed, _ = c.Feed("a")
		require.Len(t, feed.Partitions, 1)
		require.True(t, refresh(), "gone")
		_, ok := c.Feed("a")
		require.False(t, ok)
	})
}

func TestAwayClusterKeepsTheKnownFeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCluster{}
		f.set(nil, topic("a", 1, 1))
		c := newTest(t, f, Rule{Pattern: "*"})
		require.NoError(t, c.Refresh(t.Context()))
		synced, ch := c.Synced(), c.Changed()
		away := errors.New("away")
		f.set(away)
		time.Sleep(time.Minute)
		require.ErrorIs(t, c.Refresh(t.Context()), away)
		require.Equal(t, synced, c.Synced())
		require.Equal(t, []string{"a"}, names(c.Feeds()))
		select {
		case <-ch:
			t.Fatal("nothing changed")
		default:
		}
	})
}

func TestRunRefreshesUntilTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCluster{}
		c := newTest(t, f, Rule{Pattern: "*"})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		synctest.Wait()
		ch := c.Changed()
		f.set(nil, topic("new", 1, 1))
		before := time.Now()
		<-ch
		require.LessOrEqual(t, time.Since(before), time.Second)
		_, ok := c.Feed("new")
		require.True(t, ok)
		cancel()
		require.NoError(t, <-done)
	})
}

func TestRefreshIsSharedAndSpaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCluster{hold: 10 * time.Millisecond}
		c := newTest(t, f, Rule{Pattern: "*"})
		var wg sync.WaitGroup
		start := time.Now()
		for range 100 {
			wg.Go(func() { require.NoError(t, c.Refresh(t.Context())) })
		}
		wg.Wait()
		// Those who came after the first question was asked share a second one.
		require.LessOrEqual(t, f.count(), 2)
		for range 10 {
			require.NoError(t, c.Refresh(t.Context()))
		}
		require.GreaterOrEqual(t, time.Since(start), 10*minSpacing)
	})
}

func TestRefreshSeesWhatWasMadeBeforeTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCluster{hold: time.Second}
		c := newTest(t, f, Rule{Pattern: "*"})
		done := make(chan error, 1)
		go func() { done <- c.Refresh(t.Context()) }()
		synctest.Wait() // the first question is on its way and will not name it
		f.set(nil, topic("late", 1, 1))
		require.NoError(t, c.Refresh(t.Context()))
		_, ok := c.Feed("late")
		require.True(t, ok)
		require.NoError(t, <-done)
	})
}

func TestAnotherCallerTakesOverFromOneThatLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCluster{hold: time.Second}
		f.set(nil, topic("a", 1, 1))
		c := newTest(t, f, Rule{Pattern: "*"})
		go func() { _ = c.Refresh(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		leader, follower := make(chan error, 1), make(chan error, 1)
		go func() { leader <- c.Refresh(ctx) }()
		synctest.Wait()
		go func() { follower <- c.Refresh(t.Context()) }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-leader, context.Canceled)
		require.NoError(t, <-follower)

		// A follower's own end is its own.
		short, stop := context.WithTimeout(t.Context(), time.Millisecond)
		defer stop()
		require.ErrorIs(t, c.Refresh(short), context.DeadlineExceeded)
		require.NoError(t, c.Refresh(t.Context()))
	})
}

func TestGlob(t *testing.T) {
	for _, tc := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"*", "a.b", true}, {"a*", "a", true}, {"a*", "ba", false}, {"*a", "ba", true},
		{"a?c", "abc", true}, {"a?c", "ac", false}, {"a*c*e", "abcde", true}, {"a*c*e", "abcdf", false},
		{"md.*.v?", "md.fx.spot.v1", true}, {"md.*.v?", "md.v1", false}, {"**", "x", true}, {"?", "", false},
	} {
		require.Equal(t, tc.want, globMatch(tc.pattern, tc.s), "%s %s", tc.pattern, tc.s)
	}
	// Many stars must not be exponential.
	require.False(t, globMatch(strings.Repeat("a*", 100)+"b", strings.Repeat("a", 249)))
}
