package schemas

import (
	"embed"
	"sort"
	"strings"
)

// avscFiles are tapecast's own schemas: the demo's and those of its internal topics.
//
//go:embed *.avsc
var avscFiles embed.FS

// Embedded returns the text of one of tapecast's own schemas by its file name
// without ".avsc": "quotes", "trades", "price", "tapecast.DeliveryBatch", ...
func Embedded(name string) (text string, ok bool) {
	b, err := avscFiles.ReadFile(name + ".avsc")
	return string(b), err == nil
}

// EmbeddedNames lists what Embedded knows, sorted.
func EmbeddedNames() []string {
	entries, err := avscFiles.ReadDir(".")
	if err != nil { // cannot be: the directory is part of the binary
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".avsc"))
	}
	sort.Strings(names)
	return names
}
