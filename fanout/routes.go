package fanout

import (
	"cmp"
	"hash/maphash"
	"maps"
	"slices"

	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
)

// shards is into how many maps a topic's keys are spread: a change copies one
// of them, not all keys.
const shards = 256

var shardSeed = maphash.MakeSeed()

// target is one live incarnation as the routes name it. Immutable.
type target struct {
	slot        int // small and dense; unique within a snapshot
	incarnation string
	pub         *publisher
}

// nodeRoute says that a target wants something of a topic.
type nodeRoute struct {
	*target
	changed int64 // where in the interest log its last new interest of the topic lies
}

// topicRoutes is who wants what of one topic. Immutable once published.
type topicRoutes struct {
	nodes []nodeRoute // all that want something, by slot
	whole []*target   // those that want all keys
	keyed bool        // someone wants single keys
	keys  [shards]map[string][]*target
}

// snapshot is the interest log, folded up to pos. Immutable.
type snapshot struct {
	pos    stream.InterestPos
	topics map[string]*topicRoutes
}

func shardOf(key []byte) int { return int(maphash.Bytes(shardSeed, key) % shards) }

// lookup returns who asked for this key by name.
func (r *topicRoutes) lookup(key []byte) []*target { return r.keys[shardOf(key)][string(key)] }

// builder folds changes of interests into snapshots, copying only what a
// change touches. It is not safe for concurrent use.
type builder struct {
	topics map[string]*topicBuild
	dirty  map[string]struct{}
	out    map[string]*topicRoutes // as last published

	free  []int // slots
	slots int
}

// topicBuild is one topic between two snapshots.
type topicBuild struct {
	routes *topicRoutes
	own    bool                // routes is not published yet
	mine   [shards]bool        // so is this shard
	nodes  map[*target]*nodeIn // what each target wants
	keyed  int
}

type nodeIn struct {
	keys    int
	whole   bool
	changed int64
}

func newBuilder() *builder {
	return &builder{
		topics: map[string]*topicBuild{},
		dirty:  map[string]struct{}{},
		out:    map[string]*topicRoutes{},
	}
}

// slot hands out the lowest number that no live target has.
func (b *builder) slot() int {
	if n := len(b.free); n > 0 {
		s := b.free[n-1]
		b.free = b.free[:n-1]
		return s
	}
	b.slots++
	return b.slots - 1
}

// release gives a target's slot back. Its wants must have been dropped.
func (b *builder) release(t *target) { b.free = append(b.free, t.slot) }

// add notes that t wants w, by a record at offset of the log.
func (b *builder) add(t *target, w interest.Want, offset int64) {
	tb := b.touch(w.Feed)
	n := tb.nodes[t]
	if n == nil {
		n = &nodeIn{}
		tb.nodes[t] = n
	}
	n.changed = offset
	if w.All {
		n.whole = true
		return
	}
	shard := tb.shard(w.Key)
	list := shard[w.Key]
	if slices.Contains(list, t) {
		return
	}
	// The list may be part of a snapshot: it is made anew, never written to.
	shard[w.Key] = append(slices.Clip(list), t)
	n.keys++
	tb.keyed++
}

// drop notes that t does not want w any more. Dropping twice is harmless.
func (b *builder) drop(t *target, w interest.Want) {
	if tb := b.topics[w.Feed]; tb == nil || tb.nodes[t] == nil {
		return
	}
	tb := b.touch(w.Feed)
	n := tb.nodes[t]
	if w.All {
		n.whole = false
	} else if i := slices.Index(tb.routes.keys[shardOf([]byte(w.Key))][w.Key], t); i >= 0 {
		tb.dropKey(w.Key, i)
		n.keys--
		tb.keyed--
	}
	if n.keys == 0 && !n.whole {
		delete(tb.nodes, t)
	}
}

func (tb *topicBuild) dropKey(key string, i int) {
	shard := tb.shard(key)
	list := shard[key]
	if len(list) == 1 {
		delete(shard, key)
		return
	}
	rest := make([]*target, 0, len(list)-1)
	shard[key] = append(append(rest, list[:i]...), list[i+1:]...)
}

// touch makes the topic's routes writable.
func (b *builder) touch(topic string) *topicBuild {
	tb := b.topics[topic]
	if tb == nil {
		tb = &topicBuild{routes: &topicRoutes{}, own: true, nodes: map[*target]*nodeIn{}}
		b.topics[topic] = tb
	}
	if !tb.own {
		tb.routes = &topicRoutes{keys: tb.routes.keys}
		tb.own = true
		tb.mine = [shards]bool{}
	}
	b.dirty[topic] = struct{}{}
	return tb
}

// shard makes a key's shard writable.
func (tb *topicBuild) shard(key string) map[string][]*target {
	i := shardOf([]byte(key))
	if !tb.mine[i] {
		tb.mine[i] = true
		if tb.routes.keys[i] = maps.Clone(tb.routes.keys[i]); tb.routes.keys[i] == nil {
			tb.routes.keys[i] = map[string][]*target{}
		}
	}
	return tb.routes.keys[i]
}

// publish gives what was folded so far as a snapshot at pos.
func (b *builder) publish(pos stream.InterestPos) *snapshot {
	if len(b.dirty) == 0 {
		return &snapshot{pos: pos, topics: b.out}
	}
	out := maps.Clone(b.out)
	for topic := range b.dirty {
		tb := b.topics[topic]
		if len(tb.nodes) == 0 {
			delete(out, topic)
			delete(b.topics, topic)
			continue
		}
		tb.seal()
		out[topic] = tb.routes
	}
	clear(b.dirty)
	b.out = out
	return &snapshot{pos: pos, topics: out}
}

func (tb *topicBuild) seal() {
	r := tb.routes
	r.nodes, r.whole = make([]nodeRoute, 0, len(tb.nodes)), nil
	for t, n := range tb.nodes {
		r.nodes = append(r.nodes, nodeRoute{target: t, changed: n.changed})
		if n.whole {
			r.whole = append(r.whole, t)
		}
	}
	slices.SortFunc(r.nodes, func(a, b nodeRoute) int { return cmp.Compare(a.slot, b.slot) })
	slices.SortFunc(r.whole, func(a, b *target) int { return cmp.Compare(a.slot, b.slot) })
	r.keyed = tb.keyed > 0
	tb.own = false
}
