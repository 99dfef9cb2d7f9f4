package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// What a client that does not read holds: kernelKB in the kernel's send buffer
// of its connection, oursKB in the server itself, as the gateway tells it.
const (
	kernelKB = "kernel kB/stalled"
	oursKB   = "ours kB/stalled"
)

// addStalled adds what each stalled client holds, on average.
func (b *bench) addStalled(ctx context.Context, r *row, w work) error {
	if w.Stalled == 0 {
		return nil
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return err
	}
	queued, err := unsentOf(string(table), b.addr)
	if err != nil {
		return err
	}
	all := make([]int64, 0, len(queued))
	for _, n := range queued {
		all = append(all, n)
	}
	slices.Sort(all)
	if len(all) < w.Stalled {
		return fmt.Errorf("%d connections of %s, %d of them stalled", len(all), b.addr, w.Stalled)
	}
	var kernel int64
	for _, n := range all[len(all)-w.Stalled:] {
		kernel += n
	}
	r.add(kernelKB, float64(kernel)/1e3/float64(w.Stalled))
	if b.hand == nil { // not ours
		return nil
	}
	ours, err := b.held(ctx, w.Stalled, queued)
	r.add(oursKB, float64(ours)/1e3/float64(w.Stalled))
	return err
}

// held adds up what the gateway itself holds for the sessions that are furthest
// behind: what it says of them is that and what the kernel has.
func (b *bench) held(ctx context.Context, sessions int, queued map[string]int64) (ours int64, err error) {
	text, err := get(ctx, fmt.Sprintf("http://%s/v1/admin/sessions?limit=%d", b.addr, sessions))
	if err != nil {
		return 0, err
	}
	var answer struct {
		Sessions []struct {
			Remote   string
			Buffered int64 `json:"buffered_bytes"`
		}
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return 0, err
	}
	for _, s := range answer.Sessions {
		_, port, err := net.SplitHostPort(s.Remote)
		if err != nil {
			return 0, err
		}
		ours += s.Buffered - queued[port]
	}
	return ours, nil
}

// unsentOf reads from /proc/net/tcp what the kernel holds of each connection to
// an address that its client has not acknowledged, by the client's port.
func unsentOf(table, addr string) (map[string]int64, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	const established = "01"
	out := map[string]int64{}
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 5 || f[3] != established || portOf(f[1]) != port {
			continue
		}
		sent, _, _ := strings.Cut(f[4], ":")
		n, err := strconv.ParseInt(sent, 16, 64)
		if err != nil {
			return nil, fmt.Errorf("/proc/net/tcp: %w", err)
		}
		out[portOf(f[2])] = n
	}
	return out, nil
}

// portOf is the port of an address of /proc/net/tcp, in decimal.
func portOf(hex string) string {
	_, p, _ := strings.Cut(hex, ":")
	n, err := strconv.ParseUint(p, 16, 16)
	if err != nil {
		return ""
	}
	return strconv.FormatUint(n, 10)
}
