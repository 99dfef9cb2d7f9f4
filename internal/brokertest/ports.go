package brokertest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// ports are those that this process gives to what it starts. One that was free
// when it was picked has to be free when its process starts, and when it starts
// again after it was killed: nothing else may get it in between. So they are
// below those that the system gives to who asks for any, and where the machine
// has more than one loopback address, on one that nobody else takes.
var ports struct {
	mu   sync.Mutex
	host string
	next int
}

const firstPort, portCount = 10000, 20000

// FreeAddr returns a loopback address (host:port) that nobody listens on, and
// returns it once.
func FreeAddr() (string, error) {
	ports.mu.Lock()
	defer ports.mu.Unlock()
	if ports.host == "" {
		ports.host, ports.next = ownHost(), rand.IntN(portCount) //nolint:gosec // no secret
	}
	for range portCount {
		addr := net.JoinHostPort(ports.host, strconv.Itoa(firstPort+ports.next))
		ports.next = (ports.next + 1) % portCount
		if listens(addr) {
			return addr, nil
		}
	}
	return "", errors.New("no port of loopback is free")
}

// Addr is FreeAddr for a test.
func Addr(t testing.TB) string {
	t.Helper()
	addr, err := FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func ownHost() string {
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254)) //nolint:gosec // no secret
	if listens(host + ":0") {
		return host
	}
	return "127.0.0.1"
}

// listens tells whether one can listen there.
func listens(addr string) bool {
	l, err := net.Listen("tcp", addr) //nolint:noctx // returns at once
	if err != nil {
		return false
	}
	return l.Close() == nil
}
