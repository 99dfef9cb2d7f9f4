package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

var _ = command("docs", docsMain)

// docsMain fills in the tables of documents: between the comments
// "<!-- bench FILE WORK,WORK -->" and "<!-- end -->" come the last run's tables
// of a history, and between "<!-- scale FLAGS -->" and "<!-- end -->" what
// `bench scale FLAGS` prints.
func docsMain(args []string) error {
	fs := flag.NewFlagSet("docs", flag.ExitOnError)
	if err := fs.Parse(args); err != nil {
		return err
	}
	for _, path := range fs.Args() {
		text, err := os.ReadFile(path) //nolint:gosec // the user names it
		if err != nil {
			return err
		}
		if text, err = fill(text); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err = os.WriteFile(path, text, 0o644); err != nil { //nolint:gosec // as it was
			return err
		}
	}
	return nil
}

// fill replaces what stands between the comments.
func fill(text []byte) ([]byte, error) {
	const end = "<!-- end -->"
	var out bytes.Buffer
	for {
		at := bytes.Index(text, []byte("<!-- bench "))
		if s := bytes.Index(text, []byte("<!-- scale")); at < 0 || s >= 0 && s < at {
			at = s
		}
		if at < 0 {
			out.Write(text)
			return out.Bytes(), nil
		}
		close := bytes.Index(text[at:], []byte("-->"))
		stop := bytes.Index(text[at:], []byte(end))
		if close < 0 || stop < 0 {
			return nil, errors.New("a comment of the benchmark has no end")
		}
		head := string(text[at : at+close+3])
		out.Write(text[:at])
		fmt.Fprintf(&out, "%s\n\n", head)
		words := strings.Fields(strings.TrimSuffix(strings.TrimPrefix(head, "<!--"), "-->"))
		if err := block(&out, words); err != nil {
			return nil, fmt.Errorf("%s: %w", head, err)
		}
		out.WriteString("\n" + end)
		text = text[at+stop+len(end):]
	}
}

// block prints what a comment asks for.
func block(out io.Writer, words []string) error {
	if words[0] == "scale" {
		fmt.Fprintln(out, "```")
		if err := scale(out, words[1:]); err != nil {
			return err
		}
		fmt.Fprintln(out, "```")
		return nil
	}
	if len(words) != 3 {
		return errors.New("want: bench FILE WORK,WORK")
	}
	all, err := past(words[1])
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("%s has no run", words[1])
	}
	return all[len(all)-1].markdown(out, strings.Split(words[2], ","))
}

// aside are figures that are in the history and in the printed table, but would
// make those of the documents too wide.
var aside = []string{"min/max", p999ms, "RSS MB", "heap", "stacks"}

// markdown prints the tables of some works.
func (r *run) markdown(out io.Writer, works []string) error {
	fmt.Fprintf(out, "%s, commit %s, %s, load before %.2f; a raw write took %.2f us of CPU.", r.At.Format("2006-01-02 15:04 UTC"), r.Commit, r.Machine, r.Load, r.write())
	if r.Others > 0 {
		fmt.Fprintf(out, " Other processes used %.2f cores meanwhile.", r.Others)
	}
	if r.Busy {
		fmt.Fprint(out, " **The machine was busy: not to be quoted.**")
	}
	fmt.Fprintln(out)
	for _, name := range works {
		i := slices.IndexFunc(r.Results, func(o outcome) bool { return o.Work == name })
		if i < 0 {
			if _, ok := registry[name]; !ok {
				return fmt.Errorf("there is no work %q", name)
			}
			fmt.Fprintf(out, "\n**%s**: %s: *was not part of this run.*\n", name, registry[name].about)
			continue
		}
		var rows []outcome
		for _, o := range r.Results {
			if o.Work == name {
				rows = append(rows, o)
			}
		}
		names := slices.DeleteFunc(columns(rows), func(n string) bool { return slices.Contains(aside, n) })
		fmt.Fprintf(out, "\n**%s**: %s\n\n| | %s |\n|---|%s\n", name, rows[0].About, strings.Join(names, " | "), strings.Repeat("---:|", len(names)))
		for _, o := range rows {
			fmt.Fprintf(out, "| %s |", o.Server)
			for _, n := range names {
				fmt.Fprintf(out, " %s |", cell(o, n))
			}
			fmt.Fprintln(out)
		}
	}
	return nil
}
