// Package pontoon holds no code, only the house rules that are tests: who may import whom, how long a file and a
// function may grow, what may not be said or called. Everything here reads source text; nothing is built.
package pontoon

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

const module = "github.com/pontoon-kv/pontoon/"

// rooms is the import table: what each room may import of ours besides itself and internal/. An import may only point
// down this list, and rooms that do not list each other never meet but in cmd/pontoon/node.
var rooms = map[string][]string{
	"cmd/pontoon": {"router", "txn", "watch", "lease", "rangegroup", "placement", "multiraft", "storage", "proto"},
	"e2e":         {"cmd/pontoon/node", "multiraft/transport", "rangegroup/eval", "proto"},
	"router":      {"rangegroup", "txn", "watch", "lease", "proto"},
	"rangegroup":  {"multiraft", "storage", "proto"},
	"placement":   {"multiraft", "storage", "proto"},
	"multiraft":   {"storage", "proto"},
	"watch":       {"storage", "proto"},
	"txn":         {"proto"},
	"lease":       {"proto"},
	"storage":     {"proto"},
	"internal":    {"proto"},
	"proto":       {},
}

// outside says which rooms may touch a module of others; packages below it that all may use are listed as well.
var outside = []struct {
	path  string
	rooms []string
	free  []string // packages of plain values and interfaces
}{
	{"github.com/cockroachdb/pebble", []string{"storage"}, []string{"github.com/cockroachdb/pebble/v2/vfs"}},
	{"go.etcd.io/raft/v3", []string{"multiraft"}, []string{"go.etcd.io/raft/v3/raftpb"}},
	{"github.com/spf13/cobra", []string{"cmd/pontoon"}, nil},
	{"github.com/spf13/pflag", []string{"cmd/pontoon"}, nil},
	{"github.com/hashicorp/memberlist", []string{"placement"}, nil},
	{"go.etcd.io/etcd/server", nil, nil}, // peers are compared with, not built on
	{"math/rand", nil, []string{"math/rand/v2"}},
}

// importExceptions may only shrink: "file imports path". Each says why it is there.
var importExceptions = []string{
	// The errors by which raft asks its storage for a snapshot are part of what storage answers.
	"storage/raftlog.go imports go.etcd.io/raft/v3",
	// A node's statuses name a replica's role in multiraft's words.
	"e2e/sim/faults.go imports github.com/pontoon-kv/pontoon/multiraft",
}

// Size limits of hand-written code, in lines. A function counts from its signature to its closing brace.
const (
	fileLinesMax     = 600
	testFileLinesMax = 1000
	funcLinesMax     = 70
)

// sizeExceptions may only shrink: what is longer than the limit, and how long it may be. A number is lowered as soon as
// the thing is shorter.
var sizeExceptions = map[string]int{}

// source is a hand-written Go file.
type source struct {
	path string // from the root, with slashes
	test bool
	text []byte
	ast  *ast.File
}

func (s *source) dir() string { return filepath.ToSlash(filepath.Dir(s.path)) }

// room returns the room of a path, "" if it is in none.
func room(path string) string {
	best := ""
	for r := range rooms {
		if (path == r || strings.HasPrefix(path, r+"/")) && len(r) > len(best) {
			best = r
		}
	}
	return best
}

// walk visits the files of this module, those of nested modules left out.
func walk(t *testing.T, visit func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() {
			visit(filepath.ToSlash(path))
			return nil
		}
		name := d.Name()
		if path != "." && (strings.HasPrefix(name, ".") && name != ".ci" || name == "bin" || name == "testdata") {
			return fs.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != "." {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var fileSet = token.NewFileSet()

func sources(t *testing.T) (out []*source) {
	t.Helper()
	walk(t, func(path string) {
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".pb.go") {
			return
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(fileSet, path, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, &source{path: path, test: strings.HasSuffix(path, "_test.go"), text: text, ast: f})
	})
	if len(out) < 10 {
		t.Fatalf("only %d source files found; is this the root?", len(out))
	}
	return out
}

func TestImports(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		for _, spec := range s.ast.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			why := forbiddenImport(s, path)
			if why == "" {
				continue
			}
			exception := s.path + " imports " + path
			if slices.Contains(importExceptions, exception) {
				used[exception] = true
				continue
			}
			t.Errorf("%s: %s", exception, why)
		}
	}
	for _, e := range importExceptions {
		if !used[e] {
			t.Errorf("the exception %q is not needed any more: remove it", e)
		}
	}
}

// forbiddenImport returns why a file may not import a path, or "".
func forbiddenImport(s *source, path string) string {
	from := room(s.path)
	if ours, ok := strings.CutPrefix(path, module); ok {
		to := room(ours)
		switch {
		case from == "":
			return "" // this file
		case to == from, to == "internal":
			return ""
		}
		for _, allowed := range rooms[from] {
			if ours == allowed || strings.HasPrefix(ours, allowed+"/") {
				return ""
			}
		}
		return fmt.Sprintf("%s may import %s", from, strings.Join(append(rooms[from], "internal"), ", "))
	}
	for _, o := range outside {
		if path != o.path && !strings.HasPrefix(path, o.path+"/") || slices.Contains(o.free, path) {
			continue
		}
		// Tests and the end-to-end tools may look from outside.
		if !slices.Contains(o.rooms, from) && !s.test {
			return fmt.Sprintf("only %s may touch it", strings.Join(append(o.rooms, "tests"), ", "))
		}
	}
	return ""
}

func TestSizes(t *testing.T) {
	sizes := map[string]int{} // what is above its limit
	for _, s := range sources(t) {
		limit := fileLinesMax
		if s.test {
			limit = testFileLinesMax
		}
		if n := strings.Count(string(s.text), "\n"); n > limit {
			sizes[s.path] = n
		}
		if s.test {
			continue
		}
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				if n := fileSet.Position(f.End()).Line - fileSet.Position(f.Pos()).Line + 1; n > funcLinesMax {
					sizes[s.path+":"+f.Name.Name] = n
				}
			}
		}
	}
	for what, n := range sizes {
		if allowed, ok := sizeExceptions[what]; !ok {
			t.Errorf("%s has %d lines: cut it up (files end at %d, functions at %d)", what, n, fileLinesMax, funcLinesMax)
		} else if n > allowed {
			t.Errorf("%s has grown to %d lines; exceptions only shrink (%d)", what, n, allowed)
		}
	}
	for what, allowed := range sizeExceptions {
		if n := sizes[what]; n < allowed {
			t.Errorf("%s has only %d lines now: lower or remove its exception of %d", what, n, allowed)
		}
	}
}

// TestIntroductions wants a package comment for every package, and a comment for every exported name.
func TestIntroductions(t *testing.T) {
	introduced := map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		introduced[s.dir()] = introduced[s.dir()] || s.ast.Doc != nil
		for _, d := range s.ast.Decls {
			for _, name := range uncommented(d) {
				t.Errorf("%s: %s is exported and has no comment", s.path, name)
			}
		}
	}
	for dir, ok := range introduced {
		if !ok {
			t.Errorf("%s: no file has a package comment", dir)
		}
	}
}

// wellKnown methods say enough by their names.
var wellKnown = []string{"Error", "String", "Unwrap", "Set", "Type", "Close", "Start", "Len", "Less", "Swap", "Is",
	"Describe", "Collect", "Name"}

func uncommented(d ast.Decl) (names []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Doc != nil || !d.Name.IsExported() {
			return nil
		}
		if d.Recv != nil && (slices.Contains(wellKnown, d.Name.Name) || !exportedReceiver(d.Recv)) {
			return nil
		}
		names = append(names, d.Name.Name)
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
					names = append(names, s.Name.Name)
				}
			case *ast.ValueSpec:
				if s.Names[0].IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
					names = append(names, s.Names[0].Name)
				}
			}
		}
	}
	return names
}

func exportedReceiver(recv *ast.FieldList) bool {
	typ := recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

// TestForbiddenCode looks for what the house does not do in production code.
func TestForbiddenCode(t *testing.T) {
	for _, s := range sources(t) {
		if name := s.ast.Name.Name; slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc"}, name) {
			t.Errorf("%s: package %s: name it by what it owns", s.path, name)
		}
		if s.test {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil && n.Name.Name == "init" {
					t.Errorf("%s: func init: nothing happens before main", s.path)
				}
			case *ast.CallExpr:
				if why := forbiddenCall(s, n); why != "" {
					t.Errorf("%s:%d: %s", s.path, fileSet.Position(n.Pos()).Line, why)
				}
			}
			return true
		})
	}
}

func forbiddenCall(s *source, call *ast.CallExpr) string {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	pkg, ok := sel.X.(*ast.Ident)
	if !ok {
		return ""
	}
	program := room(s.path) == "cmd/pontoon" && !strings.HasPrefix(s.path, "cmd/pontoon/node/") || room(s.path) == "e2e"
	switch name := pkg.Name + "." + sel.Sel.Name; name {
	case "os.Exit", "log.Fatal", "log.Fatalf", "log.Print", "log.Printf", "log.Println", "fmt.Print", "fmt.Printf", "fmt.Println":
		if !program {
			return name + ": libraries report, programs print and exit"
		}
	case "time.Tick":
		return name + ": it can't be stopped"
	}
	return ""
}

// forbiddenWords do not belong into a repository that others clone: paths of one machine, and people's leftovers. They
// are written in two parts so that this file does not contain them.
var forbiddenWords = []*regexp.Regexp{
	regexp.MustCompile(`(^|[\s"'(=])/(wo` + `rk|ro` + `ot|ho` + `me/[a-z]+)/`),
	regexp.MustCompile(`\b(FIX` + `ME|XX` + `X|HA` + `CK)\b`),
	regexp.MustCompile(`<<<<` + `<<<|>>>>` + `>>>`),
}

func TestForbiddenWords(t *testing.T) {
	walk(t, func(path string) {
		switch filepath.Ext(path) {
		case ".go", ".md", ".proto", ".yaml", ".yml", ".sh", ".mod", "":
		default:
			return
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			for _, word := range forbiddenWords {
				if m := word.FindString(line); m != "" {
					t.Errorf("%s:%d: %q", path, i+1, m)
				}
			}
		}
	})
}

var markdownLink = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

// TestLinks follows the links between our documents.
func TestLinks(t *testing.T) {
	links := 0
	walk(t, func(path string) {
		if filepath.Ext(path) != ".md" {
			return
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range markdownLink.FindAllStringSubmatch(string(text), -1) {
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
			}
		}
	})
	if links == 0 {
		t.Error("no links found: is the documentation gone?")
	}
}
