package feed

import (
	"slices"
	"sync"
	"sync/atomic"
)

// subIndex knows the subs of one topic, by what they want. Wakes are called
// without its lock, and only for subs whose last Read found nothing more.
type subIndex struct {
	mu    sync.RWMutex
	all   []*Sub            // guarded by mu; every sub
	whole []*Sub            // guarded by mu; those that want all keys
	byKey map[string][]*Sub // guarded by mu
	taps  []*Tap            // guarded by mu

	armed atomic.Int64 // at least as many subs as wait for a wake; taps are not counted
}

func (x *subIndex) add(s *Sub) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s.place = len(x.all)
	x.all = append(x.all, s)
	if s.filter.all {
		s.placeWhole = len(x.whole)
		x.whole = append(x.whole, s)
		return
	}
	if x.byKey == nil {
		x.byKey = map[string][]*Sub{}
	}
	s.places = make([]int32, len(s.filter.keys))
	for i, k := range s.filter.keys {
		s.places[i] = int32(len(x.byKey[k])) //nolint:gosec // subs of one node
		x.byKey[k] = append(x.byKey[k], s)
	}
}

func (x *subIndex) remove(s *Sub) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all = takeOut(x.all, s.place, func(moved *Sub) { moved.place = s.place })
	if s.filter.all {
		x.whole = takeOut(x.whole, s.placeWhole, func(moved *Sub) { moved.placeWhole = s.placeWhole })
		return
	}
	for i, k := range s.filter.keys {
		l := takeOut(x.byKey[k], int(s.places[i]), func(moved *Sub) { moved.places[moved.keyAt(k, i)] = s.places[i] })
		if len(l) == 0 {
			delete(x.byKey, k)
		} else {
			x.byKey[k] = l
		}
	}
}

// keyAt finds a key that the sub wants among its keys. guess is where another
// has it: those who want the same keys have them in the same order.
func (s *Sub) keyAt(key string, guess int) int {
	keys := s.filter.keys
	if guess < len(keys) && keys[guess] == key {
		return guess
	}
	i, _ := slices.BinarySearch(keys, key)
	return i
}

func (x *subIndex) tap(t *Tap) {
	x.mu.Lock()
	defer x.mu.Unlock()
	t.place = len(x.taps)
	x.taps = append(x.taps, t)
}

func (x *subIndex) untap(t *Tap) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.taps = takeOut(x.taps, t.place, func(moved *Tap) { moved.place = t.place })
}

// takeOut takes the i-th out of a list without order: the last one gets its place.
func takeOut[T any](list []*T, i int, moved func(*T)) []*T {
	last := len(list) - 1
	list[i] = list[last]
	moved(list[i])
	list[last] = nil
	return list[:last]
}

func (x *subIndex) len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.all)
}

// waker collects whom to wake under the index's lock and calls them without
// it. It belongs to one goroutine and is used again and again.
type waker struct {
	subs []*Sub
	taps []*Tap
}

func (w *waker) take(subs []*Sub) {
	for _, s := range subs {
		if s.disarm() {
			w.subs = append(w.subs, s)
		}
	}
}

func (w *waker) takeTaps(x *subIndex) {
	for _, t := range x.taps {
		if t.disarm() {
			w.taps = append(w.taps, t)
		}
	}
}

func (w *waker) call() {
	for i, t := range w.taps {
		t.wake()
		w.taps[i] = nil
	}
	w.taps = w.taps[:0]
	for i, s := range w.subs {
		s.wake()
		w.subs[i] = nil
	}
	w.subs = w.subs[:0]
}

// events wakes the subs that match one of the events.
func (w *waker) events(x *subIndex, evs []Event) {
	if len(evs) == 0 {
		return
	}
	x.mu.RLock()
	w.takeTaps(x)
	if x.armed.Load() > 0 { // where taps read for all, nobody is: no look at each
		w.take(x.whole)
		w.matching(x, evs)
	}
	x.mu.RUnlock()
	w.call()
}

// matching takes the subs that want the key of one of the events.
func (w *waker) matching(x *subIndex, evs []Event) {
	if len(x.byKey) == 0 {
		return
	}
	for i := range evs {
		if k := evs[i].Key; k != nil {
			w.take(x.byKey[string(k)])
		}
	}
}

// key wakes the subs of one key; nil wakes all.
func (w *waker) key(x *subIndex, key []byte) {
	x.mu.RLock()
	if key == nil {
		w.takeTaps(x)
		w.take(x.all)
	} else {
		w.take(x.byKey[string(key)])
	}
	x.mu.RUnlock()
	w.call()
}

// lazy wakes those that wait for Kafka and, if the tape has moved, all others.
func (w *waker) lazy(x *subIndex, moved bool) {
	x.mu.RLock()
	if moved {
		w.takeTaps(x)
		w.take(x.all)
	} else {
		for _, s := range x.all {
			if s.pending.Load() && s.disarm() {
				w.subs = append(w.subs, s)
			}
		}
	}
	x.mu.RUnlock()
	w.call()
}

// force wakes every sub, whatever its last Read found.
func (w *waker) force(x *subIndex) {
	x.mu.RLock()
	w.takeTaps(x)
	w.subs = append(w.subs, x.all...)
	x.mu.RUnlock()
	w.call()
}
