package e2e

import (
	"context"
	varint "encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tapecast/tapecast/client"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/schemas"
)

// place is one offset of one partition of one incarnation of a topic.
type place struct {
	epoch  string
	part   int32
	offset int64
}

// changing is a topic that is filled, cut, widened, poisoned and made again,
// and what a client must see of it.
type changing struct {
	t      *testing.T
	env    *brokertest.Env
	admin  *kadm.Client
	topic  string
	schema uint32
	epoch  string
	parts  int
	n      int

	home  sync.Mutex // held by the client while it is connected
	mu    sync.Mutex
	wrote map[place]string // "" = poison
	start map[place]int64  // with offset 0: first retained offset
	ends  map[place]int64  // with offset 0: the end, of what was acknowledged
	order []string         // of epochs
	seen  map[place]string // by the client
	gaps  map[place]string // by the client: each offset of a gap, with its cause
	at    map[int32]int64  // the client's position
	first map[place]int64  // with offset 0: where the client began
	bad   []string
	in    string // the client's epoch
}

func (c *changing) create(ctx context.Context) {
	var made broker.Topic
	require.Eventually(c.t, func() (ok bool) {
		var err error
		made, ok, err = c.env.Client.CreateTopic(ctx, broker.TopicSpec{Name: c.topic, Partitions: c.parts})
		return err == nil && ok
	}, time.Minute, 100*time.Millisecond, "the topic is made")
	c.mu.Lock()
	c.epoch = made.ID.String()
	c.order = append(c.order, c.epoch)
	c.mu.Unlock()
}

// write appends events, every tenth of them poison.
func (c *changing) write(ctx context.Context, n int) {
	for range n {
		p := int32(c.n % c.parts) //nolint:gosec // small
		text := fmt.Sprintf("event %d", c.n)
		v := schemas.AppendWireHeader(nil, c.schema)
		v = append(varint.AppendVarint(v, int64(len(text))), text...)
		if c.n%10 == 9 {
			v, text = []byte{9, 9, 9}, ""
		}
		c.n++
		o, err := c.env.Client.Append(ctx, c.topic, p, []broker.AppendRecord{{Value: v}})
		require.NoError(c.t, err)
		c.mu.Lock()
		c.wrote[place{c.epoch, p, o}] = text
		c.ends[place{c.epoch, p, 0}] = o + 1
		c.mu.Unlock()
	}
}

// cut deletes records, as retention does.
func (c *changing) cut(ctx context.Context, rng *rand.Rand) {
	p := int32(rng.IntN(c.parts)) //nolint:gosec // small
	k := place{c.epoch, p, 0}
	to := max(c.start[k], c.ends[k]-rng.Int64N(3)) // beyond what the client has read: it is away
	o := kadm.Offsets{}
	o.AddOffset(c.topic, p, to, -1)
	require.Eventually(c.t, func() bool { // brokers learn of new topics one after the other
		res, err := c.admin.DeleteRecords(ctx, o)
		return err == nil && res.Error() == nil
	}, time.Minute, 100*time.Millisecond, "records are deleted")
	b, err := c.env.Client.Bounds(ctx, c.topic, []int32{p})
	require.NoError(c.t, err)
	require.Equal(c.t, to, b[p].Start)
	c.mu.Lock()
	c.start[k] = to
	c.mu.Unlock()
}

// follow reads as a client that keeps its position over connections.
func (c *changing) follow(ctx context.Context, urls []string, rng *rand.Rand) {
	var from client.From = client.Earliest()
	for ctx.Err() == nil {
		c.home.Lock()
		cl, err := client.Dial(ctx, client.Options{URLs: urls})
		require.NoError(c.t, err)
		sub, err := cl.Subscribe(ctx, c.topic, client.SubscribeOptions{From: from})
		if err == nil {
			life, end := context.WithTimeout(ctx, time.Duration(500+rng.IntN(4000))*time.Millisecond)
			for {
				f, err := sub.Next(life)
				if err != nil {
					break
				}
				c.take(&f)
			}
			end()
			if pos := sub.Position(); len(pos.Next) > 0 {
				from = client.At(pos)
			}
		}
		cl.Close()
		c.home.Unlock()
		select { // away, while retention goes on
		case <-ctx.Done():
		case <-time.After(time.Duration(rng.IntN(2000)) * time.Millisecond):
		}
	}
}

func (c *changing) take(f *client.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f.Kind {
	case client.KindSubscribed, client.KindReset:
		if f.Epoch != c.in {
			c.in, c.at = f.Epoch, map[int32]int64{}
			for p, o := range f.From {
				c.first[place{c.in, p, 0}], c.at[p] = o, o
			}
		}
	case client.KindData:
		k := place{c.in, f.Partition, f.Offset}
		var text string
		_ = json.Unmarshal(f.Value, &text)
		if _, twice := c.seen[k]; twice || f.Offset < c.at[f.Partition] {
			c.bad = append(c.bad, fmt.Sprintf("again or backwards: %+v, position %d", k, c.at[f.Partition]))
		}
		c.seen[k], c.at[f.Partition] = text, f.Offset+1
	case client.KindGap:
		if f.Cause == "epoch" {
			return
		}
		for o := f.GapFrom; o < f.GapTo; o++ {
			c.gaps[place{c.in, f.Partition, o}] = f.Cause
		}
		c.at[f.Partition] = f.GapTo
	}
}

// done tells whether the client has seen, or was told of, all of the newest epoch.
func (c *changing) done() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in != c.epoch {
		return false
	}
	for k := range c.wrote {
		if k.epoch == c.epoch && !c.known(k) {
			return false
		}
	}
	return true
}

func (c *changing) known(k place) bool {
	_, seen := c.seen[k]
	_, gap := c.gaps[k]
	return seen || gap
}

// judge holds what was seen against what was written.
func (c *changing) judge() (right, poison, deleted int) {
	for k, text := range c.seen {
		if c.wrote[k] != text || text == "" {
			c.bad = append(c.bad, fmt.Sprintf("%+v: got %q, wrote %q", k, text, c.wrote[k]))
			continue
		}
		right++
	}
	for k, cause := range c.gaps {
		text, wrote := c.wrote[k]
		switch {
		case cause == "poison" && wrote && text == "":
			poison++
		case cause == "retention" && k.offset < c.start[place{k.epoch, k.part, 0}]:
			deleted++
		default:
			c.bad = append(c.bad, fmt.Sprintf("%+v: a gap because of %s", k, cause))
		}
	}
	// In between nothing may be missing: below the last thing that was seen or told.
	last := map[place]int64{}
	for _, m := range []map[place]string{c.seen, c.gaps} {
		for k := range m {
			p := place{k.epoch, k.part, 0}
			last[p] = max(last[p], k.offset)
		}
	}
	for k := range c.wrote {
		p := place{k.epoch, k.part, 0}
		if k.offset >= c.first[p] && k.offset < last[p] && !c.known(k) {
			c.bad = append(c.bad, fmt.Sprintf("%+v: skipped", k))
		}
	}
	return right, poison, deleted
}

// compare holds what is believed of the newest epoch against what Kafka's own
// consumer reads of it.
func (c *changing) compare(d *brokertest.Dump) {
	require.Equal(c.t, c.epoch, d.TopicID)
	require.Len(c.t, d.End, c.parts)
	held := 0
	for p, recs := range d.Records {
		require.Equal(c.t, c.start[place{c.epoch, p, 0}], d.Start[p], "first offset of partition %d", p)
		for _, r := range recs {
			held++
			text, wrote := c.wrote[place{c.epoch, p, r.Offset}]
			switch {
			case !wrote:
				c.bad = append(c.bad, fmt.Sprintf("%d@%d is in the topic and was never acknowledged", p, r.Offset))
			case text == "" && r.Value[0] == 0, text != "" && !strings.HasSuffix(string(r.Value), text):
				c.bad = append(c.bad, fmt.Sprintf("%d@%d holds %x, acknowledged was %q", p, r.Offset, r.Value, text))
			}
		}
	}
	for k := range c.wrote {
		if k.epoch == c.epoch && k.offset >= c.start[place{k.epoch, k.part, 0}] {
			held--
		}
	}
	require.Zero(c.t, held, "what was acknowledged and what the topic holds")
}

// changes are what happens to a topic, and how often.
var changes = []string{
	"written", "written", "written", "retention", "retention", "retention", "partition added", "made again", "made again", "fan-out killed", "gateway killed",
}

// TestTopicsChange deletes and makes topics again, raises partition counts,
// deletes records and writes rubbish, while processes die, on three brokers.
func TestTopicsChange(t *testing.T) {
	d := proveFor(t)
	a, seed := newArena(t)
	ctx, cancel := context.WithTimeout(t.Context(), d+5*time.Minute)
	defer cancel()
	env := a.cluster.Env(t)
	reg, err := schemas.NewRegistry(schemas.RegistryOptions{URL: a.stack.registry})
	require.NoError(t, err)
	c := &changing{
		t: t, env: env, admin: kadm.NewClient(a.admin), topic: brokertest.Name(t, "changing"), parts: 1,
		wrote: map[place]string{}, start: map[place]int64{}, ends: map[place]int64{}, seen: map[place]string{}, gaps: map[place]string{},
		at: map[int32]int64{}, first: map[place]int64{},
	}
	c.schema, err = reg.Register(ctx, schemas.Subject(c.topic), `"string"`)
	require.NoError(t, err)
	c.create(ctx)
	c.write(ctx, 20)
	a.stack.awaitTopic(t, c.topic)
	var wg sync.WaitGroup
	fctx, stop := context.WithCancel(ctx)
	wg.Go(func() { c.follow(fctx, a.stack.ws, rand.New(rand.NewPCG(seed, 9))) })
	var order []string
	for end := time.Now().Add(min(d, time.Minute)); time.Now().Before(end) || len(a.counts) < 6; {
		if len(order) == 0 {
			order = slices.Clone(changes)
			a.rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		}
		what := order[0]
		order = order[1:]
		a.counts[what]++
		switch what {
		case "written":
			c.write(ctx, 50)
		case "retention":
			require.Eventually(t, c.done, 2*time.Minute, 20*time.Millisecond, "the client sees all there is")
			c.home.Lock() // while the client is away
			c.write(ctx, 20)
			c.cut(ctx, a.rng)
			c.home.Unlock()
		case "partition added":
			if c.parts < 6 {
				c.parts++
				require.NoError(t, env.Client.AddPartitions(ctx, c.topic, c.parts))
			}
			c.write(ctx, 20)
		case "made again":
			require.NoError(t, env.Client.DeleteTopic(ctx, c.topic))
			c.create(ctx)
			c.write(ctx, 20)
		case "fan-out killed":
			a.stack.fanouts[0].kill()
			c.write(ctx, 20)
			a.stack.fanouts[0].restart()
		case "gateway killed":
			a.stack.gateways[0].stop(syscall.SIGKILL)
			a.stack.gateways[0].restart()
		}
	}
	require.Eventually(t, c.done, 2*time.Minute, 100*time.Millisecond, "the client sees all of the last epoch")
	stop()
	wg.Wait()
	c.compare(dump(t, ctx, a.cluster.Addrs(), c.topic))
	right, poison, deleted := c.judge()
	line := fmt.Sprintf("topics: seed=%d epochs=%d partitions=%d [%s] written=%d verified=%d poison=%d deleted=%d wrong=%d",
		seed, len(c.order), c.parts, a.line(), len(c.wrote), right, poison, deleted, len(c.bad))
	fmt.Println(line)
	brokertest.Report(t, line)
	require.Empty(t, c.bad)
	require.Positive(t, right)
	require.Positive(t, poison)
	require.Positive(t, deleted, "retention passed no position: the run proves nothing about it")
}
