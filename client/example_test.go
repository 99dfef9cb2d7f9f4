package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tapecast/tapecast/client"
)

// Read a topic from its first retained event up to where it ends now.
func Example() {
	url, stop := exampleGateway()
	defer stop()
	ctx := context.Background()

	c, err := client.Dial(ctx, client.Options{URLs: []string{url}})
	if err != nil {
		log.Panic(err)
	}
	defer c.Close()
	quotes, err := c.Subscribe(ctx, "quotes", client.SubscribeOptions{From: client.Earliest(), Until: client.Live()})
	if err != nil {
		log.Panic(err)
	}
	for f, err := range quotes.Frames(ctx) {
		switch {
		case err != nil:
			log.Panic(err) // the gateway refused it
		case f.Kind == client.KindData:
			fmt.Println(f.Partition, f.Offset, f.Key, string(f.Value))
		case f.Kind == client.KindGap:
			fmt.Println("missing:", f.GapFrom, "to", f.GapTo, f.Cause)
		}
	}
	// Output:
	// 0 0 EURUSD {"bid":1.0841}
	// 0 1 USDJPY {"bid":148.3}
	// missing: 2 to 3 poison
	// 0 3 EURUSD {"bid":1.0843}
}

// Events decodes the values. What is missing comes as an error, after which the
// loop goes on.
func ExampleEvents() {
	url, stop := exampleGateway()
	defer stop()
	ctx := context.Background()
	c, err := client.Dial(ctx, client.Options{URLs: []string{url}})
	if err != nil {
		log.Panic(err)
	}
	defer c.Close()
	sub, err := c.Subscribe(ctx, "quotes", client.SubscribeOptions{From: client.Earliest(), Until: client.Live()})
	if err != nil {
		log.Panic(err)
	}
	type quote struct{ Bid float64 }
	for e, err := range client.Events[quote](ctx, sub) {
		var missing *client.Missing
		switch {
		case errors.As(err, &missing):
			fmt.Println("missing", missing.GapTo-missing.GapFrom, missing.Cause)
		case err != nil:
			log.Panic(err)
		default:
			fmt.Println(e.Key, e.Data.Bid)
		}
	}
	// Output:
	// EURUSD 1.0841
	// USDJPY 148.3
	// missing 1 poison
	// EURUSD 1.0843
}

// A position is plain JSON: keep it with what was done, and go on behind it,
// in another process and at any gateway.
func ExampleAt() {
	url, stop := exampleGateway()
	defer stop()
	ctx := context.Background()

	read := func(from client.From, n int) []byte {
		c, err := client.Dial(ctx, client.Options{URLs: []string{url}})
		if err != nil {
			log.Panic(err)
		}
		defer c.Close()
		sub, err := c.Subscribe(ctx, "quotes", client.SubscribeOptions{From: from})
		if err != nil {
			log.Panic(err)
		}
		for f, err := range sub.Frames(ctx) {
			if err != nil {
				log.Panic(err)
			}
			if f.Kind != client.KindData {
				continue
			}
			fmt.Println(f.Offset)
			if n--; n == 0 {
				break
			}
		}
		kept, err := json.Marshal(sub.Position())
		if err != nil {
			log.Panic(err)
		}
		return kept
	}

	kept := read(client.Earliest(), 2)
	fmt.Println("kept", string(kept))
	var p client.Position
	if err := json.Unmarshal(kept, &p); err != nil {
		log.Panic(err)
	}
	read(client.At(p), 1)
	// Output:
	// 0
	// 1
	// kept {"epoch":"AQEB","offsets":{"0":2}}
	// 3
}

// The channel form, beside other things in a select.
func ExampleSubscription_Chan() {
	url, stop := exampleGateway()
	defer stop()
	ctx := context.Background()
	c, err := client.Dial(ctx, client.Options{URLs: []string{url}})
	if err != nil {
		log.Panic(err)
	}
	defer c.Close()
	sub, err := c.Subscribe(ctx, "quotes", client.SubscribeOptions{From: client.Earliest(), Until: client.Live()})
	if err != nil {
		log.Panic(err)
	}
	frames, tick := sub.Chan(ctx), time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case f, ok := <-frames:
			if !ok {
				fmt.Println(sub.Err())
				return
			}
			fmt.Println(f.Kind)
		case <-tick.C:
			fmt.Println("a minute has passed")
		}
	}
	// Output:
	// subscribed
	// data
	// data
	// gap
	// data
	// end
	// the subscription's end was reached
}

// Several gateways, a token that is renewed for each connection, and news of
// the connection and of a feed that breaks its promise.
func ExampleOptions() {
	url, stop := exampleGateway()
	defer stop()
	connected := make(chan struct{})
	c, err := client.Dial(context.Background(), client.Options{
		URLs: []string{url, "wss://b.example.org/ws"},
		Credentials: func(context.Context) (client.Credentials, error) {
			token := "fresh" // ask the token service here
			return client.Credentials{Header: http.Header{"Authorization": {"Bearer " + token}}}, nil
		},
		OnState: func(s client.State) {
			fmt.Println(s.Phase)
			if s.Phase == client.Connected {
				close(connected)
			}
		},
		OnViolation: func(v client.Violation) { fmt.Println("broken:", v.Kind, v.Topic, v.Partition, v.Offset) },
	})
	if err != nil {
		log.Panic(err)
	}
	<-connected
	c.Close()
	// Output:
	// connecting
	// connected
	// closed
}

// exampleGateway is a gateway that holds four records of quotes, the third of
// which cannot be decoded.
func exampleGateway() (url string, stop func()) {
	frames := []string{
		`{"topic":"quotes","key":"EURUSD","data":{"bid":1.0841},"offset":0,"ts":1546383600000}`,
		`{"topic":"quotes","key":"USDJPY","data":{"bid":148.3},"offset":1,"ts":1546383600001}`,
		`{"event":"gap","id":1,"topic":"quotes","partition":0,"from":2,"to":3,"cause":"poison"}`,
		`{"topic":"quotes","key":"EURUSD","data":{"bid":1.0843},"offset":3,"ts":1546383600003}`,
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		for {
			_, msg, err := ws.ReadMessage()
			if err != nil {
				return
			}
			var cmd struct {
				Cmd   string
				From  json.RawMessage
				Until string
			}
			if json.Unmarshal(msg, &cmd) != nil || cmd.Cmd != "sub" {
				continue
			}
			var from struct{ Offsets map[string]int }
			_ = json.Unmarshal(cmd.From, &from) // "earliest" is 0
			at := from.Offsets["0"]
			out := append([]string{fmt.Sprintf(`{"event":"subscribed","id":1,"topic":"quotes","epoch":"AQEB","from":{"0":%d},"live":{"0":4},"resume":"exact"}`, at)}, frames[at:]...)
			if cmd.Until != "" {
				out = append(out, `{"event":"end","id":1,"topic":"quotes","at":{"0":4}}`)
			}
			for _, f := range out {
				if ws.WriteMessage(websocket.TextMessage, []byte(f)) != nil {
					return
				}
			}
		}
	}))
	return "ws" + strings.TrimPrefix(s.URL, "http"), s.Close
}
