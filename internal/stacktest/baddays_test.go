package stacktest

import (
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

// badDays are what the page does not tell: they come before the stack goes down.
func (tr *tour) badDays() {
	for _, day := range []struct {
		name string
		live func()
	}{{"owner killed", tr.ownerKilled}, {"started without registry", tr.startedWithoutRegistry}, {"out of memory", tr.outOfMemory}, {"any order", tr.anyOrder}} {
		began := time.Now()
		day.live()
		tr.took = append(tr.took, fmt.Sprintf("%s %.0f", day.name, time.Since(began).Seconds()))
	}
	tr.position = tr.watch.stop()
	require.NotEmpty(tr.t, tr.position.Next)
}

// ownerKilled kills the very fan-out that casts the topic all clients watch.
func (tr *tour) ownerKilled() {
	var owner string
	tr.awaits("a fan-out owns the topic price", `
		ip=$(curl -s http://127.0.0.1:9090/api/v1/query --data-urlencode 'query=tapecast_fanout_topic_lag_records{topic="price"}' |
			grep -o '"instance":"[0-9.]*' | cut -d'"' -f4)
		for c in $(docker compose ps -q fanout); do
			docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}} {{.Id}}' $c
		done | grep "^$ip " | cut -d' ' -f2`, func(out string) bool {
		owner = strings.TrimSpace(out)
		return owner != "" && !strings.Contains(owner, "\n")
	})
	tr.must(time.Minute, "docker kill "+owner)
	tr.pause("the fan-out killed that casts the clients' topic")("")
	tr.must(3*time.Minute, "docker start "+owner)
}

// startedWithoutRegistry restarts a gateway while the registry is away. It takes
// no sessions before it has schemas; its clients are at the others.
func (tr *tour) startedWithoutRegistry() {
	id := strings.TrimSpace(tr.must(time.Minute, "docker compose ps -q gateway | head -n 1"))
	tr.must(2*time.Minute, "docker compose stop registry; docker restart -t 45 "+id)
	tr.pause("a gateway restarted while the registry is away")("")
	status := `docker inspect -f '{{.State.Health.Status}}' ` + id
	require.NotEqual(tr.t, "healthy", strings.TrimSpace(tr.must(time.Minute, status)))
	tr.must(2*time.Minute, "docker compose start registry")
	tr.awaits("the gateway is healthy", status, func(out string) bool { return strings.TrimSpace(out) == "healthy" })
}

// outOfMemory starts a gateway with so little memory that the kernel kills it,
// again and again; the engine restarts it, and with its memory it is back.
func (tr *tour) outOfMemory() {
	id := strings.TrimSpace(tr.must(time.Minute, "docker compose ps -q gateway | head -n 1"))
	tr.must(2*time.Minute, "docker kill "+id+"; docker update --memory 6m --memory-swap 6m "+id+"; docker start "+id)
	tr.awaits("the kernel killed the gateway for its memory", "docker events --since 3m --until 0s --filter event=oom --filter container="+id,
		func(out string) bool { return strings.Contains(out, "oom") })
	tr.awaits("the engine restarted it", `docker inspect -f '{{.RestartCount}}' `+id,
		func(out string) bool { return strings.TrimSpace(out) != "0" })
	tr.awaits("its memory is given back", "docker update --memory 512m --memory-swap 512m "+id, func(string) bool { return true })
	tr.awaits("the gateway is healthy again", `docker inspect -f '{{.State.Health.Status}}' `+id,
		func(out string) bool { return strings.TrimSpace(out) == "healthy" })
	tr.pause("a gateway without memory, killed and restarted by the engine")("")
}

// anyOrder kills everything and starts it the wrong way round: Kafka last.
func (tr *tour) anyOrder() {
	began := time.Now()
	tr.must(time.Minute, "docker kill $(docker compose ps -q) >/dev/null")
	for _, services := range []string{"nginx gateway fanout ingest market prometheus grafana redis", "registry", "kafka"} {
		tr.must(2*time.Minute, "docker start $(docker compose ps -aq "+services+") >/dev/null")
		time.Sleep(3 * time.Second) // the wrong order is the point
	}
	healthy := map[string]bool{}
	var first []string // when each service had its first healthy container
	tr.awaits("all is healthy again", `docker compose ps --format '{{.Service}} {{.Health}}'`, func(out string) bool {
		for line := range strings.Lines(out) {
			if service, state, _ := strings.Cut(strings.TrimSpace(line), " "); state == "healthy" && !healthy[service] {
				healthy[service] = true
				first = append(first, fmt.Sprintf("%s %.0f s", service, time.Since(began).Seconds()))
			}
		}
		return strings.Count(out, " healthy") == strings.Count(out, "\n") && strings.Count(out, "gateway healthy") == 4
	})
	tr.pause("everything killed, and started with Kafka last")("")
	tr.figure("of that, healthy after: %s", strings.Join(first, ", "))
}

// otherSettings starts on a volume that was made with other settings.
func (tr *tour) otherSettings() {
	out, err := tr.run(2*time.Minute, `
		plan=$(mktemp); trap 'rm -f "$plan"' EXIT
		sed 's/partitions: 4/partitions: 8/' deploy/topics.yaml >"$plan"; chmod a+r "$plan"
		docker compose run --rm --no-deps -T -v "$plan:/etc/tapecast/deploy/topics.yaml:ro" topics 2>&1`)
	require.Error(tr.t, err)
	require.Contains(tr.t, out, "topic quotes has 4 partitions, the file says 8")
	tr.must(2*time.Minute, "KAFKA_CLUSTER_ID=tapecast-another-one-A docker compose up -d --no-deps kafka")
	tr.awaits("Kafka says that the volume is another cluster's", "docker compose logs kafka 2>&1", func(out string) bool {
		return strings.Contains(out, "cluster.id")
	})
	tr.figure("an old volume with other settings: %s", firstLine(out, "topic quotes has"))
}

func firstLine(out, with string) string {
	for line := range strings.Lines(out) {
		if i := strings.Index(line, with); i >= 0 {
			return strings.TrimSpace(line[i:])
		}
	}
	return ""
}
