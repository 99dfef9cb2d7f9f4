//go:build !unix

package brokertest

import "fmt"

type process struct{}

func startProcess(_, _, _ string, _ ...string) (*process, error) {
	return nil, fmt.Errorf("%w: it needs a Unix shell", errNoKafka)
}

func (p *process) kill()       {}
func (p *process) terminate()  {}
func (p *process) stop() error { return errNoKafka }
func (p *process) cont() error { return errNoKafka }
