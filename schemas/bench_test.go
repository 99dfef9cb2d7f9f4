package schemas_test

import (
	"encoding/json"
	"testing"

	"github.com/linkedin/goavro/v2"

	"github.com/tapecast/tapecast/schemas"
)

func BenchmarkAppendJSON(b *testing.B) {
	c, body := quote(b)
	dst := make([]byte, 0, 1024)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.AppendJSON(dst, body); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGoavroJSON is what AppendJSON replaces.
func BenchmarkGoavroJSON(b *testing.B) {
	text, _ := schemas.Embedded("quotes")
	c, err := goavro.NewCodecForStandardJSONFull(text)
	if err != nil {
		b.Fatal(err)
	}
	_, body := quote(b)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		v, _, err := c.NativeFromBinary(body)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := json.Marshal(v); err != nil {
			b.Fatal(err)
		}
	}
}

const quoteJSON = `{"symbol":"EURUSD","bid":1.14605,"ask":1.14643,"bid_size":1000000,"ask_size":1000000,"ts":1546383600078000}`

func BenchmarkAppendAvro(b *testing.B) {
	c, _ := quote(b)
	dst := make([]byte, 0, 1024)
	b.SetBytes(int64(len(quoteJSON)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.AppendAvro(dst, []byte(quoteJSON)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGoavroAvro is what AppendAvro replaces.
func BenchmarkGoavroAvro(b *testing.B) {
	text, _ := schemas.Embedded("quotes")
	c, err := goavro.NewCodecForStandardJSONFull(text)
	if err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 1024)
	b.SetBytes(int64(len(quoteJSON)))
	b.ReportAllocs()
	for b.Loop() {
		v, _, err := c.NativeFromTextual([]byte(quoteJSON))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.BinaryFromNative(dst, v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	text, _ := schemas.Embedded("quotes")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := schemas.Compile(text); err != nil {
			b.Fatal(err)
		}
	}
}
