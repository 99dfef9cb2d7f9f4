package embedded

import (
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tapecast/tapecast/internal/stream"
)

const (
	retentionMs    = "retention.ms"
	retentionBytes = "retention.bytes"
	cleanupPolicy  = "cleanup.policy"
)

// policy puts retention on every topic, by completing the requests that make
// or alter topics before kfake handles them.
type policy struct {
	cluster    *kfake.Cluster
	partitions int32
	ms, bytes  string
}

func newPolicy(c *kfake.Cluster, o Options) *policy {
	return &policy{
		cluster:    c,
		partitions: int32(o.Partitions),
		ms:         strconv.FormatInt(o.RetentionTime.Milliseconds(), 10),
		bytes:      strconv.FormatInt(max(o.RetentionBytes, -1), 10),
	}
}

func (p *policy) install() {
	p.cluster.ControlKey(int16(kmsg.CreateTopics), p.observe(p.createTopics))
	p.cluster.ControlKey(int16(kmsg.Metadata), p.observe(p.metadata))
	p.cluster.ControlKey(int16(kmsg.AlterConfigs), p.observe(p.alterConfigs))
	p.cluster.ControlKey(int16(kmsg.IncrementalAlterConfigs), p.observe(p.incrementalAlterConfigs))
}

// observe makes a control that edits a request and lets kfake answer it.
func (p *policy) observe(edit func(kmsg.Request)) func(kmsg.Request) (kmsg.Response, error, bool) {
	return func(req kmsg.Request) (kmsg.Response, error, bool) { //nolint:revive // kfake's signature
		edit(req)
		return nil, nil, false
	}
}

// defaults returns the retention of a topic with this cleanup policy. A topic
// that is only compacted must get "none" explicitly: kfake would otherwise
// apply its broker's default of seven days to it.
func (p *policy) defaults(cleanup string) map[string]string {
	if strings.Contains(cleanup, "compact") && !strings.Contains(cleanup, "delete") {
		return map[string]string{retentionMs: "-1", retentionBytes: "-1"}
	}
	return map[string]string{retentionMs: p.ms, retentionBytes: p.bytes}
}

func (p *policy) createTopics(req kmsg.Request) {
	r, ok := req.(*kmsg.CreateTopicsRequest)
	if !ok {
		return
	}
	for i := range r.Topics {
		t := &r.Topics[i]
		given := make(map[string]string, len(t.Configs))
		for _, c := range t.Configs {
			if c.Value != nil {
				given[c.Name] = *c.Value
			}
		}
		for name, value := range p.defaults(given[cleanupPolicy]) {
			if _, ok := given[name]; !ok {
				c := kmsg.NewCreateTopicsRequestTopicConfig()
				c.Name, c.Value = name, kmsg.StringPtr(value)
				t.Configs = append(t.Configs, c)
			}
		}
	}
}

// metadata makes the topics that a request would make by itself, because
// kfake would make them without retention.
func (p *policy) metadata(req kmsg.Request) {
	r, ok := req.(*kmsg.MetadataRequest)
	if !ok || !r.AllowAutoTopicCreation {
		return
	}
	r.AllowAutoTopicCreation = false
	for _, t := range r.Topics {
		if t.Topic == nil || !creatable(*t.Topic) || p.cluster.TopicInfo(*t.Topic) != nil {
			continue
		}
		// A failure shows in the answer: the topic is still not there.
		_ = p.cluster.CreateTopic(*t.Topic, p.partitions, p.defaults(""))
	}
}

// creatable tells whether a topic may come into being by being mentioned.
func creatable(topic string) bool {
	if topic == "" || topic == "." || topic == ".." || len(topic) > 249 {
		return false
	}
	for _, r := range topic {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
		default:
			return false
		}
	}
	return !strings.HasPrefix(topic, stream.InternalPrefix) && !strings.HasPrefix(topic, "__")
}

// alterConfigs completes the replacement of a topic's configuration.
func (p *policy) alterConfigs(req kmsg.Request) {
	r, ok := req.(*kmsg.AlterConfigsRequest)
	if !ok {
		return
	}
	for i := range r.Resources {
		res := &r.Resources[i]
		if res.ResourceType != kmsg.ConfigResourceTypeTopic {
			continue
		}
		given := make(map[string]string, len(res.Configs))
		for _, c := range res.Configs {
			if c.Value != nil {
				given[c.Name] = *c.Value
			}
		}
		for name, value := range p.defaults(given[cleanupPolicy]) {
			if _, ok := given[name]; !ok {
				c := kmsg.NewAlterConfigsRequestResourceConfig()
				c.Name, c.Value = name, kmsg.StringPtr(value)
				res.Configs = append(res.Configs, c)
			}
		}
	}
}

// incrementalAlterConfigs turns the removal of a retention into the default,
// and gives a topic that becomes compacted the retention of one.
func (p *policy) incrementalAlterConfigs(req kmsg.Request) {
	r, ok := req.(*kmsg.IncrementalAlterConfigsRequest)
	if !ok {
		return
	}
	for i := range r.Resources {
		res := &r.Resources[i]
		if res.ResourceType != kmsg.ConfigResourceTypeTopic {
			continue
		}
		cleanup, becomes := p.cleanupOf(res.ResourceName), false
		mentioned := make(map[string]bool, len(res.Configs))
		for _, c := range res.Configs {
			mentioned[c.Name] = true
			if c.Name == cleanupPolicy && c.Value != nil {
				cleanup, becomes = *c.Value, true
			}
		}
		for name, value := range p.defaults(cleanup) {
			for j := range res.Configs {
				c := &res.Configs[j]
				if c.Name == name && c.Op == kmsg.IncrementalAlterConfigOpDelete {
					c.Op, c.Value = kmsg.IncrementalAlterConfigOpSet, kmsg.StringPtr(value)
				}
			}
			if becomes && !mentioned[name] {
				c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
				c.Name, c.Op, c.Value = name, kmsg.IncrementalAlterConfigOpSet, kmsg.StringPtr(value)
				res.Configs = append(res.Configs, c)
			}
		}
	}
}

func (p *policy) cleanupOf(topic string) string {
	info := p.cluster.TopicInfo(topic)
	if info == nil || info.Configs[cleanupPolicy] == nil {
		return ""
	}
	return *info.Configs[cleanupPolicy]
}
