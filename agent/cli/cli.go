// Package cli is the command line: it parses, runs one command, and ends with one clear sentence when something is wrong.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/alecthomas/kong"

	"varve.dev/agent/config"
)

// The exit codes of every command. A runner's error may carry another one by a method ExitCode() int.
const (
	exitOK     = 0
	exitFailed = 1 // the command was understood and did not succeed
	exitUsage  = 2 // the arguments or the configuration are wrong; nothing was done
)

// Runners are the commands that are the product itself. They come from the composition root, so that this package
// needs nothing but a Kafka client.
type Runners struct {
	// Agent runs one agent until ctx ends, and prints its ready line on stdout.
	Agent func(ctx context.Context, cfg *config.Agent, stdout, stderr io.Writer) error
	// Storage looks at what the index and the bucket hold: what is ls, describe or verify.
	Storage func(ctx context.Context, cfg *config.Agent, what string, args StorageArgs, stdout io.Writer) error
}

// StorageArgs are the arguments of varve storage.
type StorageArgs struct {
	Topic     string // empty: all
	Partition int32  // -1: all
	Bytes     bool   // verify reads every object whole, not only its length and checksum
	JSON      bool
}

// invocation is what a command gets: its streams, its environment and the runners.
type invocation struct {
	ctx     context.Context
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
	environ []string
	now     func() time.Time
	run     Runners
}

type root struct {
	Dev     devCmd     `cmd:"" help:"Run one agent on this machine: SQLite and a folder, nothing else."`
	Agent   agentCmd   `cmd:"" help:"Run an agent as its configuration file says."`
	Topic   topicCmd   `cmd:"" help:"Create, list, describe, alter and delete topics."`
	Group   groupCmd   `cmd:"" help:"List, describe, seek and delete consumer groups."`
	Produce produceCmd `cmd:"" help:"Write records from standard input to a topic."`
	Consume consumeCmd `cmd:"" help:"Write a topic's records to standard output."`
	Storage storageCmd `cmd:"" help:"Look at what a log is made of in the object store, and prove it."`
	Config  configCmd  `cmd:"" help:"Print every key, or check a configuration file."`
	Health  healthCmd  `cmd:"" help:"Ask an agent whether it is ready."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

const description = `Varve is a Kafka-compatible broker whose log settles into object storage.

Exit codes: 0 done, 1 failed, 2 wrong arguments or configuration.
Every command has --help with an example.`

// Main runs one command and returns the process's exit code. It ends early, and in order, when ctx does.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, run Runners) int {
	in := &invocation{ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr, environ: os.Environ(), now: time.Now, run: run}
	return in.main(args)
}

func (in *invocation) main(args []string) int {
	exited := -1 // set when kong has printed the help that was asked for
	parser, err := kong.New(&root{}, kong.Name("varve"), kong.Description(description), kong.Writers(in.stdout, in.stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.WithHyphenPrefixedParameters(true), // --offset -10, --time -1h
		kong.Exit(func(code int) { exited = code }))
	if err != nil {
		fmt.Fprintln(in.stderr, "varve:", err)
		return exitFailed
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		fmt.Fprintf(in.stderr, "varve: %v; %s\n", err, hint(err))
		return exitUsage
	}
	if err := command.Run(in); err != nil {
		fmt.Fprintln(in.stderr, "varve:", err)
		return exitCode(err)
	}
	return exitOK
}

// hint names the help page of the command that could not be parsed.
func hint(err error) string {
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil && parse.Context.Command() != "" {
		return "see varve " + commandPath(parse.Context) + " --help"
	}
	return "see varve --help"
}

func commandPath(c *kong.Context) string {
	path := ""
	for _, p := range c.Path {
		if p.Command != nil {
			if path != "" {
				path += " "
			}
			path += p.Command.Name
		}
	}
	return path
}

func exitCode(err error) int {
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return exitFailed
}

// usageError is a mistake in arguments or configuration that parsing alone could not see.
type usageError struct{ error }

func (usageError) ExitCode() int   { return exitUsage }
func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }
