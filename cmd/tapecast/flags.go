package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/tapecast/tapecast/internal/config"
)

// errHelp says that help was asked for and given.
var errHelp = errors.New("help was printed")

// errReported says that what went wrong was already said.
var errReported = errors.New("failed")

// usageError is a mistake on the command line: exit code 2.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// flagSet is a flag.FlagSet whose flags may stand before, between and after
// the arguments, and which knows its own help page.
type flagSet struct {
	*flag.FlagSet
	synopsis string // "pub TOPIC [FILE...]"
	about    string
	examples []string
}

// newFlags makes the flag set of a command. about is one paragraph.
func newFlags(synopsis, about string, examples ...string) *flagSet {
	name, _, _ := strings.Cut(synopsis, " ")
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return &flagSet{FlagSet: fs, synopsis: synopsis, about: about, examples: examples}
}

// parse reads args and returns the arguments that are no flags. Asked for
// help, it prints it and returns errHelp; its other errors are usage errors.
func (f *flagSet) parse(sys system, args []string) ([]string, error) {
	var positional []string
	for {
		err := f.Parse(args)
		switch {
		case errors.Is(err, flag.ErrHelp):
			f.help(sys.out)
			return nil, errHelp
		case err != nil:
			return nil, f.explain(err)
		}
		rest := f.Args()
		if len(rest) == 0 {
			return positional, nil
		}
		if n := len(args) - len(rest); n > 0 && args[n-1] == "--" {
			return append(positional, rest...), nil // everything behind -- is an argument
		}
		positional = append(positional, rest[0])
		args = rest[1:]
	}
}

// explain says what to do about flag's own errors.
func (f *flagSet) explain(err error) error {
	msg := err.Error()
	if name, ok := strings.CutPrefix(msg, "flag provided but not defined: -"); ok {
		name = strings.TrimPrefix(name, "-")
		near := config.Nearest(name, f.names())
		if near != "" {
			return usagef("unknown flag --%s; did you mean --%s?", name, near)
		}
		return usagef("unknown flag --%s", name)
	}
	if name, ok := strings.CutPrefix(msg, "flag needs an argument: -"); ok {
		return usagef("--%s needs a value", strings.TrimPrefix(name, "-"))
	}
	return usagef("%s", strings.NewReplacer(" for flag -", " for --", "for -", "for --").Replace(msg))
}

func (f *flagSet) names() []string {
	var out []string
	f.VisitAll(func(fl *flag.Flag) { out = append(out, fl.Name) })
	return out
}

// given tells whether a flag stood on the command line.
func (f *flagSet) given(name string) bool {
	found := false
	f.Visit(func(fl *flag.Flag) { found = found || fl.Name == name })
	return found
}

func (f *flagSet) help(w io.Writer) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage:\n  tapecast %s\n", f.about, f.synopsis)
	if f.NFlags() > 0 {
		b.WriteString("\nFlags:\n")
		f.VisitAll(func(fl *flag.Flag) { helpFlag(&b, fl) })
	}
	if len(f.examples) > 0 {
		b.WriteString("\nExamples:\n")
		for _, e := range f.examples {
			fmt.Fprintf(&b, "  %s\n", e)
		}
	}
	_, _ = io.WriteString(w, b.String())
}

// NFlags counts the flags that are defined.
func (f *flagSet) NFlags() int { return len(f.names()) }

const helpColumn = 30

func helpFlag(b *strings.Builder, fl *flag.Flag) {
	valueName, text := flag.UnquoteUsage(fl)
	left := "  --" + fl.Name
	if bv, ok := fl.Value.(interface{ IsBoolFlag() bool }); !ok || !bv.IsBoolFlag() {
		left += " " + strings.NewReplacer("value", "TEXT", "string", "TEXT", "int", "N", "uint", "N", "float", "N", "duration", "DURATION").Replace(valueName)
		text = strings.TrimSuffix(text, " "+valueName) // a word that stood there only to be found
	}
	if fl.DefValue != "" && fl.DefValue != "false" && fl.DefValue != "0" {
		text += " (default " + fl.DefValue + ")"
	}
	if len(left) > helpColumn-2 {
		fmt.Fprintf(b, "%s\n%*s%s\n", left, helpColumn, "", text)
		return
	}
	fmt.Fprintf(b, "%-*s%s\n", helpColumn, left, text)
}

// listFlag is a flag that may be repeated.
type listFlag []string

func (l *listFlag) String() string     { return strings.Join(*l, ",") }
func (l *listFlag) Set(s string) error { *l = append(*l, s); return nil }

// oneArg returns the one argument that a command takes.
func oneArg(args []string, what string) (string, error) {
	switch len(args) {
	case 0:
		return "", usagef("%s is missing", what)
	case 1:
		return args[0], nil
	}
	return "", usagef("too many arguments: %s", strings.Join(args[1:], " "))
}

// noArgs refuses arguments.
func noArgs(args []string) error {
	if len(args) > 0 {
		return usagef("takes no arguments, but got %s", strings.Join(args, " "))
	}
	return nil
}
