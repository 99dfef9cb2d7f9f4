package gateway

import (
	"bufio"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWithAReaderEach runs the tests of the sessions with a goroutine that
// reads for each, as where there is no epoll set, and for TLS.
func TestWithAReaderEach(t *testing.T) {
	portable = true
	defer func() { portable = false }()
	for name, fn := range map[string]func(*testing.T){
		"Autobahn": TestAutobahn, "CloseCodes": TestCloseCodesOfBadBytes, "Fragments": TestFragmentsMakeOneCommand,
		"BadCommands": TestBadCommandsAreAnsweredAndHarmNothing, "Flood": TestAFloodIsRefusedThenClosed, "Limits": TestLimitsOfAConnection,
		"LevelZero": TestLevelZeroGetsDataAndNothingElse, "Resume": TestResumeIsAckedReplayedAndLive, "From": TestEveryFromForm,
		"Cursor": TestCursorResumesExactlyAcrossConnections, "Drain": TestDrainSaysGoodbyeWithPositions, "Panic": TestAPanicEndsOneSession,
		"Place": TestAClientThatDoesNotReadKeepsItsPlace, "Ahead": TestAClientThatIsAheadIsHeldUp, "Half": TestHalfAFrameIsNotWaitedForLong,
		"Drip": TestDrippingClients,
	} {
		t.Run(name, fn)
	}
}

// closeCode reads a server's frames up to its close.
func closeCode(t testing.TB, conn net.Conn, br *bufio.Reader) int {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		var head [2]byte
		_, err := io.ReadFull(br, head[:])
		require.NoError(t, err)
		n := int(head[1])
		if n == len16 {
			var more [2]byte
			_, err = io.ReadFull(br, more[:])
			require.NoError(t, err)
			n = int(binary.BigEndian.Uint16(more[:]))
		}
		body := make([]byte, n)
		_, err = io.ReadFull(br, body)
		require.NoError(t, err)
		if head[0] == opClose {
			return int(binary.BigEndian.Uint16(body))
		}
	}
}

func TestHalfAFrameIsNotWaitedForLong(t *testing.T) {
	r := newRig(t, false, func(o *Options) { o.terms = func(t *terms) { t.part = 50 * time.Millisecond } })
	for _, half := range [][]byte{
		{0x81}, {0x81, 0xfe, 0}, masked(0x81, []byte(`{"cmd":"ping"}`))[:10], masked(0x01, []byte(`{"cmd"`)),
		append(masked(0x01, []byte(`{"cmd"`)), masked(0x89, nil)...), append(masked(0x8a, nil), 0x81),
	} {
		conn, br := rawUpgrade(t, r, "")
		_, err := conn.Write(half)
		require.NoError(t, err)
		require.Equal(t, 4001, closeCode(t, conn, br), "%x", half)
	}
	c := r.connect() // between two messages there is all the time
	c.sync()
	time.Sleep(100 * time.Millisecond)
	c.sync()
}

func TestHalfACommandHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true)
		conn, br := rawUpgrade(t, r, "")
		start := time.Now()
		_, err := conn.Write([]byte{0x81})
		require.NoError(t, err)
		require.Equal(t, 4001, closeCode(t, conn, br))
		require.Equal(t, partTime, time.Since(start))
		_ = conn.Close()
	})
}

func TestTheLongestHalfCommandIsGivenUp(t *testing.T) {
	r := newRig(t, false, func(o *Options) { o.terms = func(t *terms) { t.lent = 2 } })
	if r.service.readers == nil {
		t.Skip("NOT TESTED: this system parks no sockets")
	}
	ping := masked(0x81, []byte(`{"cmd":"ping","id":1}`))
	waiting := func(n int) {
		require.Eventually(t, func() bool {
			rs := r.service.readers
			rs.mu.Lock()
			defer rs.mu.Unlock()
			return rs.lent.Len() == n
		}, waitLong, tick)
	}
	type half struct {
		net.Conn
		*bufio.Reader
	}
	var halves []half
	for i := range 2 {
		conn, br := rawUpgrade(t, r, "")
		_, err := conn.Write(ping[:5])
		require.NoError(t, err)
		halves = append(halves, half{conn, br})
		waiting(i + 1)
	}
	conn, br := rawUpgrade(t, r, "")
	_, err := conn.Write(ping[:5])
	require.NoError(t, err)
	halves = append(halves, half{conn, br})
	require.Equal(t, 4001, closeCode(t, halves[0].Conn, halves[0].Reader))
	waiting(2)
	for _, h := range halves[1:] {
		_, err = h.Write(ping[5:])
		require.NoError(t, err)
		frame := make([]byte, 2)
		_, err = io.ReadFull(h.Reader, frame)
		require.NoError(t, err)
		require.Equal(t, byte(opText), frame[0])
	}
	waiting(0)
}

// TestSilentParkedClientsAreClosed is TestSilentClientsAreClosed for sockets
// whose silence the session's loop looks at.
func TestSilentParkedClientsAreClosed(t *testing.T) {
	r := newRig(t, false, func(o *Options) { o.Ping = 50 * time.Millisecond })
	conn, br := rawUpgrade(t, r, "")
	require.Equal(t, 4001, closeCode(t, conn, br))
}

// TestWhatAParkedClientSaysPutsItsSilenceOff has one send a pong, and nothing else.
func TestWhatAParkedClientSaysPutsItsSilenceOff(t *testing.T) {
	r := newRig(t, false)
	conn, _ := rawUpgrade(t, r, "")
	require.Eventually(t, func() bool { return len(r.service.open()) == 1 }, waitLong, tick)
	s := r.service.open()[0]
	if s.socket.readers == nil {
		t.Skip("NOT TESTED: this system parks no sockets")
	}
	for range 3 {
		require.Eventually(t, func() bool { return s.socket.holder.Load() == parked }, waitLong, tick)
		before := s.silentAt()
		require.False(t, before.IsZero())
		_, err := conn.Write(masked(0x8a, nil))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return s.silentAt().After(before) }, waitLong, tick)
	}
}

// TestAClientThatIsAheadIsHeldUp sends more than the session takes, and reads
// the answers after that.
func TestAClientThatIsAheadIsHeldUp(t *testing.T) {
	r := newRig(t, false, func(o *Options) { o.CommandBurst, o.CommandRate = 1<<20, 1e6 })
	c := r.connect()
	const n = 10_000
	sent := make(chan error, 1)
	go func() {
		for i := range n {
			if err := c.ws.WriteMessage(1, []byte(`{"cmd":"ping","id":"`+strconv.Itoa(i)+`"}`)); err != nil {
				sent <- err
				return
			}
			if i%7 == 0 {
				if err := c.ws.WriteMessage(9, []byte("x")); err != nil {
					sent <- err
					return
				}
			}
		}
		sent <- nil
	}()
	time.Sleep(50 * time.Millisecond) // so that answers pile up
	for i := range n {
		require.Equal(t, strconv.Itoa(i), c.event("pong")["id"])
	}
	require.NoError(t, <-sent)
}

// TestDrippingClients has clients that send commands in pieces of any size,
// and leave when they like, while events are delivered to them and to a client
// that stays. No descriptor may stay behind.
func TestDrippingClients(t *testing.T) {
	r := newRig(t, false, func(o *Options) { o.CommandBurst, o.CommandRate = 1<<20, 1e6 })
	r.feed.add("price", 1)
	stays := r.connect()
	stays.send(`{"cmd":"sub","topic":"price"}`)
	stays.sync()
	const clients, rounds, events = 8, 12, 300
	before := descriptors()
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			for round := range rounds {
				drip(t, r, rand.New(rand.NewPCG(uint64(i), uint64(round)))) //nolint:gosec // a test
			}
		})
	}
	for i := range events {
		r.feed.produce("price", 0, "", "1")
		require.Equal(t, []int64{int64(i)}, stays.offsets(1))
	}
	group.Wait()
	stays.sync()
	require.Eventually(t, func() bool { return len(r.service.open()) == 1 && descriptors() <= before }, waitLong, tick,
		"%d sessions, %d descriptors of %d", len(r.service.open()), descriptors(), before)
}

// drip is one such client.
func drip(t *testing.T, r *rig, rnd *rand.Rand) {
	conn, err := r.dial(t.Context(), "tcp", r.base)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: "+r.base+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	br := bufio.NewReader(conn)
	for line := ""; line != "\r\n"; {
		if line, err = br.ReadString('\n'); err != nil {
			t.Error(err)
			return
		}
	}
	bytes := masked(0x81, []byte(`{"cmd":"sub","id":1,"topic":"price"}`))
	for i := range 20 {
		text := []byte(`{"cmd":"ping","id":` + strconv.Itoa(i) + `}`)
		cut := rnd.IntN(len(text))
		bytes = append(bytes, masked(0x01, text[:cut])...)
		bytes = append(bytes, masked(0x89, []byte("p"))...)
		bytes = append(bytes, masked(0x80, text[cut:])...)
		bytes = append(bytes, masked(0x8a, nil)...)
	}
	if rnd.IntN(2) == 0 {
		bytes = append(bytes, masked(0x88, binary.BigEndian.AppendUint16(nil, 1000))...)
	}
	leave := rnd.IntN(3 * len(bytes)) // two of three stay to the end
	for at := 0; at < min(len(bytes), leave); {
		n := min(1+rnd.IntN(9), len(bytes)-at)
		if _, err := conn.Write(bytes[at : at+n]); err != nil {
			t.Error(err)
			return
		}
		at += n
		if rnd.IntN(8) == 0 {
			runtime.Gosched()
		}
	}
	if leave < len(bytes) {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	pongs := 0
	for pongs < 40 { // of 20 pings and 20 commands
		var head [2]byte
		if _, err := io.ReadFull(br, head[:]); err != nil {
			t.Errorf("after %d pongs: %v", pongs, err)
			return
		}
		n := int(head[1])
		if n == len16 {
			var more [2]byte
			_, _ = io.ReadFull(br, more[:])
			n = int(binary.BigEndian.Uint16(more[:]))
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(br, body); err != nil {
			t.Error(err)
			return
		}
		if head[0] == opPong || head[0] == opText && string(body[:min(n, 15)]) == `{"event":"pong"` {
			pongs++
		}
		if head[0] == opClose {
			break // at most maxPongs pings wait: the close may come before some answers
		}
	}
}

// descriptors counts this process's; 0 where nobody says.
func descriptors() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

func TestBucket(t *testing.T) {
	p := newPace(10, 3)
	var b bucket
	for range 3 {
		require.True(t, b.take(p, 0))
	}
	require.False(t, b.take(p, 0))
	require.False(t, b.take(p, 99*time.Millisecond))
	require.True(t, b.take(p, 100*time.Millisecond))
	require.False(t, b.take(p, 100*time.Millisecond))
	for range 3 {
		require.True(t, b.take(p, time.Hour))
	}
	require.False(t, b.take(p, time.Hour))
	none := newPace(0, 2)
	b = 0
	require.True(t, b.take(none, 0))
	require.True(t, b.take(none, 0))
	require.False(t, b.take(none, time.Second))
	b = 0
	for range 1000 {
		require.True(t, b.take(pace{}, 0))
	}
}

// TestAWorkerGivesItsCoreAway has two workers share one core with each other.
func TestAWorkerGivesItsCoreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newCores(1)
		first, second := &worker{cores: all}, &worker{cores: all}
		first.begin()
		require.Len(t, all.most, 1)
		first.begin()
		require.Len(t, all.most, 1, "it has one already")
		got := make(chan struct{})
		go func() {
			second.begin()
			close(got)
		}()
		synctest.Wait()
		require.False(t, second.has)
		time.Sleep(2 * lookEach)
		go first.begin() // its moment is over
		<-got
		synctest.Wait()
		require.False(t, first.has, "it waits behind who has waited")
		second.rest()
		synctest.Wait()
		require.True(t, first.has)
		first.rest()
		first.rest()
		require.Empty(t, all.most)
	})
}

// TestWhoWaitsForHalfACommandHoldsNoCore has more of them than there are cores.
func TestWhoWaitsForHalfACommandHoldsNoCore(t *testing.T) {
	r := newRig(t, false)
	for range runtime.GOMAXPROCS(0) + 2 {
		conn, _ := rawUpgrade(t, r, "")
		_, err := conn.Write(masked(0x81, []byte(`{"cmd":"ping"}`))[:10])
		require.NoError(t, err)
	}
	c := r.connect()
	for range 100 {
		c.sync()
	}
}
