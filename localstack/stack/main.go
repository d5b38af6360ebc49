// Command stack is the whole product on one machine: Postgres, an S3 server, and an agent in front of them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"varve.dev/localstack/stack/compose"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "stack:", err)
		os.Exit(1)
	}
}

type options struct {
	compose.Config
	drop bool
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("stack", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.Program, "varve", filepath.Join("bin", "varve"), "the program to run")
	flags.StringVar(&o.Dir, "data", "", "folder that keeps everything between runs; default: varve/stack in the user's data directory")
	flags.BoolVar(&o.drop, "drop", false, "begin with an empty temporary folder and remove it at the end")
	flags.StringVar(&o.Driver, "driver", "s3", "driver of the object store: s3 or minio")
	flags.StringVar(&o.Kafka, "kafka", "127.0.0.1:9092", "address for Kafka clients; port 0 takes a free one")
	flags.StringVar(&o.HTTP, "http", "127.0.0.1:8092", "address of health and metrics; port 0 takes a free one")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.Driver != "s3" && o.Driver != "minio":
		return o, fmt.Errorf("there is no driver %q, want s3 or minio", o.Driver)
	case o.drop && o.Dir != "":
		return o, errors.New("-drop takes a folder of its own: give it or -data, not both")
	}
	return o, nil
}

// run holds the stack up until ctx ends or a part of it does.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if o.Dir, err = o.folder(); err != nil {
		return err
	}
	if o.drop {
		defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
	}
	o.PostgresDir = filepath.Join(o.Dir, "postgres")
	s, err := compose.Start(ctx, o.Config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	if err := o.describe(stdout, s); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		fmt.Fprintln(stderr, "stopping")
		return nil
	case <-s.Agent.Done():
		return errors.New("the agent ended by itself")
	case <-s.S3.Done():
		return errors.New("the S3 server ended by itself")
	}
}

// folder makes the folder that holds everything.
func (o options) folder() (string, error) {
	dir := o.Dir
	if o.drop {
		temporary, err := os.MkdirTemp("", "varve-stack-")
		if err != nil {
			return "", err
		}
		return temporary, os.Chmod(temporary, passable)
	}
	if dir == "" {
		home, err := dataHome()
		if err != nil {
			return "", fmt.Errorf("no data directory is known here: give -data DIR or -drop (%w)", err)
		}
		dir = filepath.Join(home, "varve", "stack")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, passable)
}

// passable folders let Postgres's own user through to its data, which is closed to everyone else.
const passable = 0o711

// dataHome is where this user's programs keep data. Postgres will not run as root, and its user cannot reach into root's
// home: root's data is the machine's.
func dataHome() (string, error) {
	if os.Getuid() == 0 {
		return "/var/lib", nil
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, ".local", "share"), nil
}

// describe prints where everything is, and commands to paste.
func (o options) describe(w io.Writer, s *compose.Stack) error {
	brokers := ""
	if s.Agent.Kafka != "127.0.0.1:9092" {
		brokers = " --brokers " + s.Agent.Kafka
	}
	_, err := fmt.Fprintf(w, `ready kafka=%[1]s http=%[2]s

Kafka     %[1]s
            %[3]s topic create hello --partitions 3%[4]s
            seq 1 1000 | %[3]s produce hello%[4]s
            %[3]s consume hello --from beginning --until-end%[4]s | tail -3
HTTP      http://%[2]s
            curl http://%[2]s/metrics
Postgres  %[5]s
            psql '%[5]s' -c '\dt'
S3        %[6]s, bucket %[7]s, in these terminals:
            export %[8]s %[9]s AWS_REGION=us-east-1
            aws --endpoint-url %[6]s s3 ls --recursive s3://%[7]s/
            %[3]s storage ls --config %[10]s
Folder    %[11]s
            tail -f %[11]s/agent.log

Ctrl-C stops everything%[12]s.
`, s.Agent.Kafka, s.Agent.HTTP, o.Program, brokers, s.DatabaseURL, s.S3.Endpoint, compose.Bucket, s.Env[0], s.Env[1],
		s.ConfigFile, o.Dir, map[bool]string{true: " and removes it", false: "; the data stays"}[o.drop])
	return err
}
