package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
)

var helpFlagLine = regexp.MustCompile(`(?m)^  --([a-z0-9-]+)`)

// runCompletion is `tapecast completion`.
func runCompletion(ctx context.Context, sys system, args []string) error {
	fs := newFlags("completion SHELL",
		"Print a script that completes commands and flags in a shell: bash, zsh or fish.",
		"source <(tapecast completion bash)      # in ~/.bashrc",
		"source <(tapecast completion zsh)       # in ~/.zshrc, after compinit",
		"tapecast completion fish > ~/.config/fish/completions/tapecast.fish")
	rest, err := fs.parse(sys, args)
	if err != nil {
		return err
	}
	shell, err := oneArg(rest, "SHELL")
	if err != nil {
		return err
	}
	write, known := map[string]func(io.Writer, []completed){"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[shell]
	if !known {
		return usagef("%q: expected bash, zsh or fish", shell)
	}
	var b bytes.Buffer
	write(&b, completions(ctx))
	_, err = sys.out.Write(b.Bytes())
	return err
}

// completed is a command with its flags.
type completed struct {
	name, summary string
	flags         []string
}

// completions asks each command for its help page, which is where the flags are.
func completions(ctx context.Context) []completed {
	var out []completed
	for _, c := range commands() {
		var page bytes.Buffer
		_ = c.run(ctx, system{in: strings.NewReader(""), out: &page, err: io.Discard}, []string{"--help"}) // it returns errHelp
		d := completed{name: c.name, summary: c.summary, flags: []string{"--help"}}
		for _, m := range helpFlagLine.FindAllStringSubmatch(page.String(), -1) {
			d.flags = append(d.flags, "--"+m[1])
		}
		out = append(out, d)
	}
	return out
}

func names(all []completed) string {
	var out []string
	for _, c := range all {
		out = append(out, c.name)
	}
	return strings.Join(append(out, "help"), " ")
}

func bashCompletion(w io.Writer, all []completed) {
	fmt.Fprint(w, "_tapecast() {\n  local cur=${COMP_WORDS[COMP_CWORD]} words=\n  COMPREPLY=()\n")
	fmt.Fprintf(w, "  if ((COMP_CWORD == 1)); then\n    words='%s'\n  else\n    case ${COMP_WORDS[1]} in\n", names(all))
	for _, c := range all {
		fmt.Fprintf(w, "      %s) words='%s' ;;\n", c.name, strings.Join(c.flags, " "))
	}
	fmt.Fprintf(w, "      help) words='%s' ;;\n    esac\n", names(all))
	fmt.Fprint(w, "    [[ $cur == -* || ${COMP_WORDS[1]} == help ]] || words=\n  fi\n")
	fmt.Fprint(w, "  local IFS=$' \\n'\n  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\ncomplete -o default -F _tapecast tapecast\n")
}

func zshCompletion(w io.Writer, all []completed) {
	fmt.Fprint(w, "#compdef tapecast\n_tapecast() {\n  if ((CURRENT == 2)); then\n    local -a commands=(\n")
	for _, c := range all {
		fmt.Fprintf(w, "      '%s:%s'\n", c.name, strings.NewReplacer("'", "", ":", " ").Replace(c.summary))
	}
	fmt.Fprint(w, "    )\n    _describe command commands\n    return\n  fi\n  local -a flags\n  case ${words[2]} in\n")
	for _, c := range all {
		fmt.Fprintf(w, "    %s) flags=(%s) ;;\n", c.name, strings.Join(c.flags, " "))
	}
	fmt.Fprint(w, "  esac\n  if [[ ${words[CURRENT]} == -* ]]; then\n    compadd -- $flags\n  else\n    _files\n  fi\n}\ncompdef _tapecast tapecast\n")
}

func fishCompletion(w io.Writer, all []completed) {
	quote := strings.NewReplacer(`\`, `\\`, "'", `\'`)
	for _, c := range all {
		fmt.Fprintf(w, "complete -c tapecast -n __fish_use_subcommand -f -a %s -d '%s'\n", c.name, quote.Replace(c.summary))
		for _, f := range c.flags {
			fmt.Fprintf(w, "complete -c tapecast -n '__fish_seen_subcommand_from %s' -l %s\n", c.name, strings.TrimPrefix(f, "--"))
		}
	}
}
