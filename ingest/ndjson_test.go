package ingest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
)

func TestStream(t *testing.T) {
	b := newBench(t)
	var body strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&body, `{"key":"k%d","value":{"n":%d},"partition":%d}`, i%7, i, i%2)
		body.WriteString([]string{"\n", "\r\n", "\n\n", "\n \t\n"}[i%4])
	}
	body.WriteString(`{"value":"last, without an end"}`)
	a := b.stream("json", body.String())
	require.Equal(t, 200, a.status, a.text)
	require.Equal(t, int64(10_001), a.body.Events)
	require.Len(t, a.body.Last, 2)
	require.Zero(t, a.body.Line)
	recs := b.producer.all()
	require.Len(t, recs, 10_001)
	for i := range 10_000 {
		require.Equal(t, fmt.Sprintf(`{"n":%d}`, i), string(recs[i].Value))
	}
	require.Less(t, b.producer.calls, 200, "lines that are there go together")
	require.InDelta(t, 10_001, testutil.ToFloat64(b.s.metrics.events[doorStream]), 0)
	require.Zero(t, b.s.budget.held.Load())
	require.Equal(t, `{"events":0,"last":[]}`+"\n", b.stream("json", "\n\n").text)
	require.Equal(t, 404, b.stream("nope", "{}").status)
}

func TestStreamStopsAtTheFirstBadLine(t *testing.T) {
	good := `{"key":"a","value":{"bid":1,"bid_size":1}}` + "\n"
	for name, tc := range map[string]struct {
		bad     string
		status  int
		code    string
		field   string
		message string
	}{
		"value":     {`{"value":{"bid":"x","bid_size":1}}`, 400, codeInvalid, "value.bid", "line 4: value.bid "},
		"event":     {`{"key":"a"}`, 400, codeInvalid, "value", "line 4: value is missing"},
		"syntax":    {`{"key":"a"`, 400, codeInvalid, "", "line 4: the line is not JSON"},
		"utf8":      {"{\"key\":\"\xff\"}", 400, codeInvalid, "", "UTF-8"},
		"array":     {`[` + strings.TrimSpace(good) + `]`, 400, codeInvalid, "", "line 4: is an array"},
		"partition": {`{"value":null,"partition":9}`, 400, codeInvalid, "partition", "line 4: "},
		"too large": {`{"value":{"bid":1,"bid_size":1,"note":"` + strings.Repeat("x", 70<<10) + `"}}`, 413, codeTooLarge, "value", "line 4: "},
		"too long":  {`{"value":{"bid":1,"bid_size":1,"note":"` + strings.Repeat("x", 300<<10) + `"}}`, 413, codeTooLarge, "", "line 4: the line is longer"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			a := b.stream("quotes", good+good+"\n"+tc.bad+"\n"+good+"{not looked at")
			require.Equal(t, tc.status, a.status, a.text)
			require.Equal(t, tc.code, a.body.Code)
			require.Equal(t, int64(2), a.body.Events)
			require.Equal(t, int64(4), a.body.Line)
			require.Equal(t, []position{{Partition: 0, Offset: 1}}, a.body.Last)
			require.Contains(t, a.body.Message, tc.message)
			if tc.field != "" {
				require.Equal(t, tc.field, a.body.Errors[0].Field)
				require.Equal(t, 2, a.body.Errors[0].Index, "of the event, blank lines do not count")
			}
			require.Len(t, b.producer.all(), 2)
			require.Zero(t, b.s.budget.held.Load())
		})
	}
}

func TestStreamWithSeveralMistakesInOneChunk(t *testing.T) {
	b := newBench(t)
	good := `{"value":{"bid":1,"bid_size":1}}` + "\n"
	large := `{"value":{"bid":1,"bid_size":1,"note":"` + strings.Repeat("x", 65<<10) + `"}}` + "\n"
	a := b.stream("quotes", good+large+good+`{"value":{}}`+"\n"+"nonsense\n")
	require.Equal(t, 413, a.status, a.text)
	require.Equal(t, int64(2), a.body.Line)
	require.Equal(t, int64(1), a.body.Events)
}

func TestStreamTellsWhatIsNotKnown(t *testing.T) {
	b := newBench(t)
	b.producer.judge = func(call, i int, _ broker.ProduceRecord) error {
		if call == 0 && i == 1 {
			return fmt.Errorf("x: %w", broker.ErrUnknownOutcome)
		}
		return nil
	}
	a := b.stream("json", "\n"+strings.Repeat(`{"value":1}`+"\n", 3))
	require.Equal(t, 503, a.status)
	require.Equal(t, codeUnknown, a.body.Code)
	require.Equal(t, int64(2), a.body.Events)
	require.Equal(t, int64(1), a.body.Unknown)
	require.Equal(t, int64(3), a.body.Line)
	require.NotEmpty(t, a.header.Get("Retry-After"))
}

// feeder is a body that the test writes as the server reads.
func (b *bench) feeder(topic string) (w *io.PipeWriter, got chan answer) {
	r, w := io.Pipe()
	got = make(chan answer, 1)
	go func() {
		req, _ := http.NewRequest(http.MethodPost, b.url+"/v1/topics/"+topic+"/events", r)
		req.Header.Set("Content-Type", typeNDJSON)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			got <- answer{text: err.Error()}
			return
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		got <- answer{status: res.StatusCode, text: string(text)}
	}()
	return w, got
}

func TestStreamedLinesAreWrittenAsTheyCome(t *testing.T) {
	b := newBench(t)
	w, got := b.feeder("json")
	for i := range 3 {
		_, err := fmt.Fprintf(w, `{"value":%d}`+"\n", i)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return len(b.producer.all()) == i+1 }, 30*time.Second, time.Millisecond)
	}
	_, err := io.WriteString(w, `{"value":`)
	require.NoError(t, err)
	_ = w.CloseWithError(io.ErrClosedPipe) // the sender breaks off within a line
	<-got
	require.Eventually(t, func() bool { return b.s.budget.held.Load() == 0 }, 30*time.Second, time.Millisecond)
	require.Len(t, b.producer.all(), 3)
}

func TestABrokenStreamEndsNoLine(t *testing.T) {
	b := newBench(t)
	// Half a record that would be a valid one.
	body := io.MultiReader(strings.NewReader(`{"value":1}`+"\n"+`{"value":2}`), errReader{})
	up := &upload{s: b.s, feed: b.feeds.feeds["json"], lease: b.s.budget.lease(), last: map[int32]int64{}, alive: func() {}}
	up.in = newLineReader(body)
	p := up.run(t.Context())
	require.NotNil(t, p)
	require.Equal(t, int64(1), up.sum.Events)
	require.Equal(t, int64(2), up.sum.Line)
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestKafkasPaceIsTheSenders(t *testing.T) {
	b := newBench(t)
	b.producer.hold = make(chan struct{})
	w, got := b.feeder("json")
	line := bytes.Repeat([]byte("x"), 1000)
	line = append(append([]byte(`{"value":"`), line...), "\"}\n"...)
	wrote := make(chan int, 1)
	go func() {
		n := 0
		for ; n < 16_000; n++ {
			if _, err := w.Write(line); err != nil {
				break
			}
		}
		_ = w.Close()
		wrote <- n
	}()
	require.Eventually(t, func() bool { return b.s.budget.held.Load() > streamBuffer }, 30*time.Second, time.Millisecond)
	require.Less(t, b.s.budget.held.Load(), int64(1<<20), "16 MB wait, not here")
	select {
	case n := <-wrote:
		t.Fatalf("the sender was not held back: %d lines", n)
	default:
	}
	close(b.producer.hold)
	a := <-got
	require.Equal(t, 200, a.status, a.text)
	require.Equal(t, 16_000, <-wrote)
	require.Len(t, b.producer.all(), 16_000)
}

func TestTheEndOfTheProcessEndsAStream(t *testing.T) {
	b := newBench(t)
	w, got := b.feeder("json")
	_, err := io.WriteString(w, `{"value":1}`+"\n")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(b.producer.all()) == 1 }, 30*time.Second, time.Millisecond)
	b.stop()
	a := <-got
	require.Equal(t, 503, a.status, a.text)
	require.Contains(t, a.text, `"events":1`)
	require.Contains(t, a.text, codeUnavailable)
	require.NoError(t, <-b.done)
	_ = w.Close()
}

// TestAClientThatSendsAllFirstSeesTheAnswer plays a client that reads nothing
// before it has sent its whole body, as most HTTP libraries do.
func TestAClientThatSendsAllFirstSeesTheAnswer(t *testing.T) {
	b := newBench(t)
	rest := strings.Repeat(`{"value":"`+strings.Repeat("x", 1000)+`"}`+"\n", 20_000)
	for contentType, want := range map[string]string{
		typeNDJSON: " 400 ", typeJSON: " 413 ", "text/plain": " 415 ", typeRESTJSON: " 415 ",
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
		require.NoError(t, err)
		body := "nonsense\n" + rest
		_, err = fmt.Fprintf(c, "POST /v1/topics/json/events HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", contentType, len(body), body)
		require.NoError(t, err, contentType)
		// And the connection is good for the next request.
		for _, wanted := range []string{want, " 200 "} {
			line := make([]byte, 4096)
			n, err := c.Read(line)
			require.NoError(t, err)
			require.Contains(t, string(line[:n]), "HTTP/1.1"+wanted)
			if wanted == want {
				_, err = fmt.Fprint(c, "POST /v1/topics/json/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{\"value\":1}")
				require.NoError(t, err)
			}
		}
		require.NoError(t, c.Close())
	}
}
