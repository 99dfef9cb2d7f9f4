package tapecast_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The law of the house: who may import whom, one room per library, every
// package has a doc, no bare goroutine in a room, no drawer packages, no giant
// files or functions. docs/ARCHITECTURE.md tells why.

const module = "github.com/tapecast/tapecast/"

// libraryRooms says which packages may import a library (prefix match on both).
var libraryRooms = map[string][]string{
	"github.com/segmentio/kafka-go":                           {"internal/broker"},
	"github.com/gorilla/websocket":                            {"gateway", "client", "loadtest", "bench"},
	"github.com/linkedin/goavro":                              {"schemas"},
	"github.com/golang/snappy":                                {"internal/snap"},
	"github.com/twmb/franz-go":                                {"internal/embedded", "internal/brokertest", "loadtest"},
	"go.yaml.in/yaml":                                         {"internal/config"},
	"github.com/klauspost/compress":                           {"internal/broker"},
	"github.com/stretchr/testify":                             {"internal/brokertest"},
	"github.com/pierrec/lz4":                                  {"internal/broker"},
	module + "internal/brokertest":                            {"internal/e2e"},
	module + "internal/testcache":                             {"internal/brokertest", "internal/pyenv"},
	module + "internal/pyenv":                                 nil,
	module + "internal/testconns":                             nil,
	module + "internal/embedded":                              {"internal/brokertest", "internal/app", "cmd/tapecast", "bench"},
	module + "internal/snap":                                  {"internal/delivery", "internal/broker"},
	module + "internal/coverage":                              {"fanout", "gateway/feed"},
	module + "internal/interestlog":                           {"fanout", "gateway/feed", "internal/app", "cmd/tapecast", "bench"},
	module + "internal/protocol":                              {"gateway"},
	module + "internal/config":                                {"internal/app", "cmd/tapecast"},
	module + "internal/market":                                {"internal/app", "cmd/tapecast"},
	module + "schemas/registry":                               {"internal/app", "cmd/tapecast", "internal/e2e"},
	module + "cmd/":                                           nil,
	module + "internal/e2e":                                   nil,
	"github.com/prometheus/client_golang/prometheus/testutil": {},
}

// rooms meet only on Kafka.
var rooms = []string{"ingest", "fanout", "gateway"}

type goFile struct {
	path, dir string
	test      bool
	ast       *ast.File
	fset      *token.FileSet
	lines     int
}

func files(t *testing.T) []goFile {
	t.Helper()
	var out []goFile
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules" || d.Name() == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, src, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, goFile{
			path: filepath.ToSlash(path), dir: filepath.ToSlash(filepath.Dir(path)), test: strings.HasSuffix(path, "_test.go"),
			ast: f, fset: fset, lines: strings.Count(string(src), "\n"),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func under(dir, prefix string) bool {
	return dir == prefix || strings.HasPrefix(dir, strings.TrimSuffix(prefix, "/")+"/")
}

func TestImportsKeepToTheirRooms(t *testing.T) {
	for _, f := range files(t) {
		if f.test {
			continue
		}
		for _, imp := range f.ast.Imports {
			path := strings.Trim(imp.Path.Value, `"`)
			for lib, allowed := range libraryRooms {
				if !under(path, lib) && !strings.HasPrefix(path, lib) {
					continue
				}
				own := strings.TrimPrefix(path, module)
				ok := under(f.dir, own) || slices.ContainsFunc(allowed, func(a string) bool { return under(f.dir, a) })
				if !ok {
					t.Errorf("%s imports %s, which only %v may", f.path, path, allowed)
				}
			}
			for _, a := range rooms {
				for _, b := range rooms {
					if a != b && under(f.dir, a) && under(path, module+b) {
						t.Errorf("%s: the rooms meet only on Kafka, but it imports %s", f.path, path)
					}
				}
			}
			if under(f.dir, "internal/stream") && strings.Contains(path, ".") {
				t.Errorf("%s: the vocabulary imports nothing beyond the standard library, but %s", f.path, path)
			}
		}
	}
}

func TestEveryPackageHasADoc(t *testing.T) {
	doc := map[string]bool{}
	for _, f := range files(t) {
		if f.test {
			continue
		}
		doc[f.dir] = doc[f.dir] || f.ast.Doc != nil
	}
	for dir, ok := range doc {
		if !ok {
			t.Errorf("package %s has no doc comment", dir)
		}
	}
}

func TestRoomsStartGoroutinesOnlyThroughOwners(t *testing.T) {
	for _, f := range files(t) {
		if f.test || !slices.ContainsFunc(rooms, func(r string) bool { return under(f.dir, r) }) {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s: a bare go statement; start it through the errgroup that Run waits for", f.fset.Position(g.Pos()))
			}
			return true
		})
	}
}

func TestNoDrawers(t *testing.T) {
	for _, f := range files(t) {
		switch filepath.Base(f.dir) {
		case "util", "utils", "common", "helpers", "types", "shared", "misc":
			t.Errorf("%s: a drawer, not a room", f.dir)
		}
	}
}

func TestFilesAndFunctionsStaySmall(t *testing.T) {
	const maxFile, maxFunc = 500, 80
	for _, f := range files(t) {
		if f.test {
			continue
		}
		if f.lines > maxFile {
			t.Errorf("%s has %d lines, more than %d", f.path, f.lines, maxFile)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1
			if n > maxFunc {
				t.Errorf("%s: %s has %d lines, more than %d", f.fset.Position(fn.Pos()), fn.Name.Name, n, maxFunc)
			}
		}
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	for _, f := range files(t) {
		if f.test || under(f.dir, "cmd") {
			continue
		}
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && d.Recv == nil {
					t.Errorf("%s: %s has no doc comment", f.fset.Position(d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				if d.Tok != token.TYPE {
					continue
				}
				for _, s := range d.Specs {
					ts := s.(*ast.TypeSpec)
					if ts.Name.IsExported() && d.Doc == nil && ts.Doc == nil && ts.Comment == nil && len(d.Specs) == 1 {
						t.Errorf("%s: type %s has no doc comment", f.fset.Position(ts.Pos()), ts.Name.Name)
					}
				}
			}
		}
	}
}

// TestDocsNameWhatExists checks that every path of the tree that the docs name is there.
func TestDocsNameWhatExists(t *testing.T) {
	docs, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	docs = append(docs, "README.md")
	path := regexp.MustCompile("`((?:cmd|client|docs|fanout|gateway|ingest|internal|loadtest|schemas|web)/[A-Za-z0-9_./-]*)`")
	checked := 0
	for _, doc := range docs {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range path.FindAllStringSubmatch(string(text), -1) {
			checked++
			if _, err := os.Stat(m[1]); err != nil {
				t.Error(fmt.Errorf("%s names %s: %w", doc, m[1], err))
			}
		}
	}
	if checked == 0 {
		t.Error("the docs name no path of the tree: the pattern is broken")
	}
}
