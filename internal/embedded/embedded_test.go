package embedded_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tapecast/tapecast/internal/embedded"
)

// TestMain lets this binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("EMBEDDED_TEST_DIR"); dir != "" {
		b, err := embedded.Start(embedded.Options{Listen: "127.0.0.1:0", DataDir: dir})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(b.Addr())
		select {}
	}
	os.Exit(m.Run())
}

func start(t testing.TB, o embedded.Options) *embedded.Broker {
	t.Helper()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	b, err := embedded.Start(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func client(t testing.TB, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func timeout(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// write writes records and commits a group's offset.
func write(t *testing.T, addr, topic string, from, n int) {
	t.Helper()
	c := client(t, addr, kgo.AllowAutoTopicCreation())
	defer c.Close()
	for i := range n {
		r := &kgo.Record{Topic: topic, Key: []byte("k"), Value: fmt.Append(nil, from+i)}
		require.NoError(t, c.ProduceSync(timeout(t), r).FirstErr())
	}
	var offsets kadm.Offsets
	offsets.AddOffset(topic, 0, int64(from+n), -1)
	_, err := kadm.NewClient(c).CommitOffsets(timeout(t), "group", offsets)
	require.NoError(t, err)
}

func check(t *testing.T, addr, topic string, n int) {
	t.Helper()
	c := client(t, addr, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer c.Close()
	seen := 0
	for seen < n {
		f := c.PollFetches(timeout(t))
		require.NoError(t, f.Err())
		f.EachRecord(func(*kgo.Record) { seen++ })
	}
	require.Equal(t, n, seen)
	got, err := kadm.NewClient(c).FetchOffsets(timeout(t), "group")
	require.NoError(t, err)
	o, ok := got.Lookup(topic, 0)
	require.True(t, ok)
	require.EqualValues(t, n, o.At)
}

func TestDataSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		b, err := embedded.Start(embedded.Options{Listen: "127.0.0.1:0", DataDir: dir})
		require.NoError(t, err)
		if round > 0 {
			check(t, b.Addr(), "quotes", round*20)
		}
		write(t, b.Addr(), "quotes", round*20, 20)
		require.NoError(t, b.Close())
		require.NoError(t, b.Close())
	}
}

func TestDataSurvivesKill9(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		cmd := exec.Command(os.Args[0]) //nolint:noctx,gosec // this very binary, killed below
		cmd.Env = append(os.Environ(), "EMBEDDED_TEST_DIR="+dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		addr := strings.TrimSpace(line)
		if round > 0 {
			check(t, addr, "quotes", round*20)
		}
		if round == 1 {
			_, err := embedded.Start(embedded.Options{Listen: "127.0.0.1:0", DataDir: dir})
			require.ErrorContains(t, err, "the data directory "+dir+" is in use by another process")
		}
		write(t, addr, "quotes", round*20, 20)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}
}

func TestAPortThatIsTakenIsNamed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	dir := t.TempDir()
	_, err = embedded.Start(embedded.Options{Listen: ln.Addr().String(), DataDir: dir})
	require.ErrorContains(t, err, "cannot listen on "+ln.Addr().String())
	require.ErrorContains(t, err, "in use")
	start(t, embedded.Options{DataDir: dir}) // the directory was released
}

func TestOnlyLoopbackIsListenedOn(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "192.0.2.1:9092", "nonsense", "127.0.0.1:notaport"} {
		_, err := embedded.Start(embedded.Options{Listen: addr})
		require.Error(t, err, addr)
	}
	b := start(t, embedded.Options{Listen: "localhost:0"})
	m, err := kadm.NewClient(client(t, b.Addr())).BrokerMetadata(timeout(t))
	require.NoError(t, err)
	require.Equal(t, b.Addr(), net.JoinHostPort(m.Brokers[0].Host, fmt.Sprint(m.Brokers[0].Port)))
}

func configs(t *testing.T, b *embedded.Broker, topic string) map[string]string {
	t.Helper()
	info := b.Cluster().TopicInfo(topic)
	require.NotNil(t, info, topic)
	out := map[string]string{}
	for k, v := range info.Configs {
		if v != nil {
			out[k] = *v
		}
	}
	return out
}

func TestEveryTopicHasRetention(t *testing.T) {
	b := start(t, embedded.Options{RetentionTime: time.Hour, RetentionBytes: 1000, Partitions: 3})
	c := client(t, b.Addr(), kgo.AllowAutoTopicCreation())
	adm := kadm.NewClient(c)
	ctx := timeout(t)
	p := kadm.StringPtr

	create := func(topic string, cfg map[string]*string) {
		_, err := adm.CreateTopic(ctx, -1, -1, cfg, topic)
		require.NoError(t, err)
	}
	create("plain", nil)
	require.Equal(t, map[string]string{"retention.ms": "3600000", "retention.bytes": "1000"}, configs(t, b, "plain"))
	create("own", map[string]*string{"retention.ms": p("5000")})
	require.Equal(t, map[string]string{"retention.ms": "5000", "retention.bytes": "1000"}, configs(t, b, "own"))
	create("compacted", map[string]*string{"cleanup.policy": p("compact")})
	require.Equal(t, map[string]string{"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "compact"}, configs(t, b, "compacted"))
	create("both", map[string]*string{"cleanup.policy": p("compact,delete")})
	require.Equal(t, "3600000", configs(t, b, "both")["retention.ms"])

	require.NoError(t, c.ProduceSync(ctx, &kgo.Record{Topic: "mentioned", Value: []byte("v")}).FirstErr())
	require.Equal(t, map[string]string{"retention.ms": "3600000", "retention.bytes": "1000"}, configs(t, b, "mentioned"))
	require.Len(t, b.Cluster().PartitionInfos("mentioned"), 3)

	alter := func(topic string, cfgs ...kadm.AlterConfig) {
		res, err := adm.AlterTopicConfigs(ctx, cfgs, topic)
		require.NoError(t, err)
		require.NoError(t, res[0].Err)
	}
	alter("own", kadm.AlterConfig{Op: kadm.DeleteConfig, Name: "retention.ms"})
	require.Equal(t, "3600000", configs(t, b, "own")["retention.ms"])
	alter("own", kadm.AlterConfig{Op: kadm.SetConfig, Name: "cleanup.policy", Value: p("compact")})
	require.Equal(t, map[string]string{"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "compact"}, configs(t, b, "own"))
	res, err := adm.AlterTopicConfigsState(ctx, []kadm.AlterConfig{{Name: "max.message.bytes", Value: p("5000")}}, "plain")
	require.NoError(t, err)
	require.NoError(t, res[0].Err)
	require.Equal(t, map[string]string{"retention.ms": "3600000", "retention.bytes": "1000", "max.message.bytes": "5000"}, configs(t, b, "plain"))
}

func TestTapecastsOwnTopicsDoNotComeIntoBeingByBeingMentioned(t *testing.T) {
	b := start(t, embedded.Options{})
	c := client(t, b.Addr(), kgo.AllowAutoTopicCreation(), kgo.UnknownTopicRetries(1))
	for _, topic := range []string{"tapecast.interests", "__consumer_offsets", "bad name"} {
		require.Error(t, c.ProduceSync(timeout(t), &kgo.Record{Topic: topic}).FirstErr(), topic)
		require.Nil(t, b.Cluster().TopicInfo(topic))
	}
	_, err := kadm.NewClient(c).CreateTopic(timeout(t), 1, 1, nil, "tapecast.interests")
	require.NoError(t, err) // said out loud it may
}

func TestOldDataIsCleanedAlsoAfterARestart(t *testing.T) {
	dir := t.TempDir()
	o := embedded.Options{Listen: "127.0.0.1:0", DataDir: dir, RetentionBytes: 2000, CleanEvery: time.Hour}
	b, err := embedded.Start(o)
	require.NoError(t, err)
	write(t, b.Addr(), "quotes", 0, 100)
	old := b.Cluster().PartitionInfo("quotes", part(b)).LogStartOffset
	require.Zero(t, old)
	require.NoError(t, b.Close())
	o.CleanEvery = 20 * time.Millisecond
	b = start(t, o)
	require.Eventually(t, func() bool {
		return b.Cluster().PartitionInfo("quotes", part(b)).LogStartOffset > 0
	}, 30*time.Second, 10*time.Millisecond)
}

// part returns the partition in which the records are: they have one key.
func part(b *embedded.Broker) int32 {
	for _, p := range b.Cluster().PartitionInfos("quotes") {
		if p.HighWatermark > 0 {
			return p.Partition
		}
	}
	return 0
}

func TestRecordingsWithOldTimestampsAreKept(t *testing.T) {
	b := start(t, embedded.Options{CleanEvery: 10 * time.Millisecond})
	c := client(t, b.Addr(), kgo.AllowAutoTopicCreation())
	r := &kgo.Record{Topic: "quotes", Value: []byte("v"), Timestamp: time.UnixMilli(1546383600071)}
	require.NoError(t, c.ProduceSync(timeout(t), r).FirstErr())
	b.Cluster().Compact()
	require.Zero(t, b.Cluster().PartitionInfo("quotes", r.Partition).LogStartOffset)
}

func TestSeveralBrokersInMemory(t *testing.T) {
	b := start(t, embedded.Options{Brokers: 3})
	require.Len(t, b.Addrs(), 3)
	m, err := kadm.NewClient(client(t, b.Addrs()[2])).BrokerMetadata(timeout(t))
	require.NoError(t, err)
	require.Len(t, m.Brokers, 3)
	_, _, err = b.Cluster().AddNode(-1, 0)
	require.NoError(t, err)
}
