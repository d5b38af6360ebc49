package cli

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"varve.dev/agent/config"
)

// devCmd is varve dev.
type devCmd struct {
	Data  string   `placeholder:"DIR" help:"Folder for everything; by default one in your data directory."`
	Kafka string   `placeholder:"HOST:PORT" help:"Address for Kafka clients; port 0 takes a free one. Default: 127.0.0.1:9092."`
	HTTP  string   `name:"http" placeholder:"HOST:PORT" help:"Address of health and metrics; port 0 takes a free one. Default: 127.0.0.1:8092."`
	Set   []string `sep:"none" placeholder:"KEY=VALUE" help:"Set a key of varve config; can be repeated."`
}

func (devCmd) Help() string {
	return `Prints one line when it serves: ready kafka=HOST:PORT http=HOST:PORT. Logs go to standard error.
Some bounds are smaller than an agent's, so that segments appear within seconds.

Example:

    varve dev --data ./varve-data --set num.partitions=3`
}

func (c *devCmd) Run(in *invocation) error {
	cfg, err := in.dev(c.Data, c.Kafka, c.HTTP, c.Set)
	if err != nil {
		return err
	}
	return in.run.Agent(in.ctx, cfg, in.stdout, in.stderr)
}

// dev resolves the configuration of varve dev. Its own choices stand where a file would, so that the environment and
// --set win over them; its flags win over both.
func (in *invocation) dev(dir, kafka, http string, sets []string) (*config.Agent, error) {
	dir, err := in.devFolder(dir)
	if err != nil {
		return nil, err
	}
	file := append(config.DevDefaults(),
		"data.dir="+filepath.Join(dir, "local"),
		"metadata.url=sqlite:"+filepath.Join(dir, "metadata.db"),
		"store.url="+(&url.URL{Scheme: "file", Path: filepath.ToSlash(filepath.Join(dir, "objects"))}).String())
	if kafka != "" {
		sets = append(sets, "listeners=PLAINTEXT://"+kafka)
	}
	if http != "" {
		sets = append(sets, "http.listen="+http)
	}
	cfg, err := config.Load([]byte(strings.Join(file, "\n")), in.environ, sets)
	if err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}

func (in *invocation) devFolder(dir string) (string, error) {
	if dir == "" {
		home, err := in.dataHome()
		if err != nil {
			return "", usagef("no data directory is known here (%w): give --data DIR", err)
		}
		dir = filepath.Join(home, "varve")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("--data: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("create the data folder: %w", err)
	}
	return dir, nil
}

// dataHome is where programs of this user keep data, as the system has it.
func (in *invocation) dataHome() (string, error) {
	variable, below := "HOME", ".local/share"
	switch runtime.GOOS {
	case "darwin":
		below = "Library/Application Support"
	case "windows":
		variable, below = "LocalAppData", ""
	default:
		if dir := in.getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
			return dir, nil
		}
	}
	base := in.getenv(variable)
	if base == "" {
		return "", fmt.Errorf("%s is not set", variable)
	}
	return filepath.Join(base, filepath.FromSlash(below)), nil
}

func (in *invocation) getenv(name string) string {
	for _, pair := range in.environ {
		if n, v, _ := strings.Cut(pair, "="); n == name {
			return v
		}
	}
	return ""
}

// agentCmd is varve agent.
type agentCmd struct {
	Config string   `placeholder:"FILE" help:"File of key=value lines; without one, keys come from the environment and --set."`
	Set    []string `sep:"none" placeholder:"KEY=VALUE" help:"Set a key of varve config; can be repeated."`
}

func (agentCmd) Help() string {
	return `Prints one line when it serves: ready kafka=HOST:PORT http=HOST:PORT. Logs go to standard error.
It drains, flushes and releases when it is told to stop by SIGTERM or Ctrl-C.

Example:

    varve agent --config agent.conf --set agent.id=2`
}

func (c *agentCmd) Run(in *invocation) error {
	cfg, err := in.load(c.Config, c.Set)
	if err != nil {
		return err
	}
	return in.run.Agent(in.ctx, cfg, in.stdout, in.stderr)
}

// load resolves the configuration of file, which may be empty, the environment and sets.
func (in *invocation) load(file string, sets []string) (*config.Agent, error) {
	var text []byte
	if file != "" {
		var err error
		if text, err = readConfig(file); err != nil {
			return nil, err
		}
	}
	cfg, err := config.Load(text, in.environ, sets)
	if err != nil {
		return nil, mistakes(file, err)
	}
	return cfg, nil
}

// readConfig reads one byte more than Load accepts at most, so that Load says what is wrong with a huge file.
func readConfig(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, usagef("read the configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, config.MaxFileBytes+1))
	if err != nil {
		return nil, usagef("read the configuration: %w", err)
	}
	return text, nil
}

// mistakes names the file before the lines that are wrong in it.
func mistakes(file string, err error) error {
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		if file != "" && strings.HasPrefix(line, "line ") {
			lines[i] = file + " " + line
		}
	}
	if len(lines) == 1 {
		return usageError{errors.New(lines[0])}
	}
	return usagef("%d mistakes in the configuration:\n  %s", len(lines), strings.Join(lines, "\n  "))
}

// configCmd is varve config.
type configCmd struct {
	Page  configPageCmd  `cmd:"" default:"withargs" help:"Print every key with its default, range and meaning (the default)."`
	Check configCheckCmd `cmd:"" help:"Find every mistake in a configuration file."`
}

type configPageCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

func (configPageCmd) Help() string {
	return `Example:

    varve config | less`
}

func (c *configPageCmd) Run(in *invocation) error {
	if c.JSON {
		return writeJSON(in.stdout, config.Entries())
	}
	return config.WritePage(in.stdout)
}

type configCheckCmd struct {
	File string   `arg:"" help:"The file to check."`
	Set  []string `sep:"none" placeholder:"KEY=VALUE" help:"Check together with these; can be repeated."`
}

func (configCheckCmd) Help() string {
	return `The environment counts too, as it would for varve agent. Exits with 2 when something is wrong.

Example:

    varve config check agent.conf`
}

func (c *configCheckCmd) Run(in *invocation) error {
	if _, err := in.load(c.File, c.Set); err != nil {
		return err
	}
	_, err := fmt.Fprintf(in.stdout, "%s is valid\n", c.File)
	return err
}

// storageCmd is varve storage; what it prints comes from the runner.
type storageCmd struct {
	Ls       storageLsCmd       `cmd:"" help:"List what each partition's history is made of."`
	Describe storageDescribeCmd `cmd:"" help:"Show every object of a topic's history."`
	Verify   storageVerifyCmd   `cmd:"" help:"Prove that index and object store agree."`
}

// storageSource says whose storage to look at.
type storageSource struct {
	Config string   `placeholder:"FILE" help:"The agent's configuration file."`
	Data   string   `placeholder:"DIR" help:"The folder of varve dev, in place of --config."`
	Set    []string `sep:"none" placeholder:"KEY=VALUE" help:"Set a key of varve config; can be repeated."`
	JSON   bool     `name:"json" help:"Print JSON."`
}

func (s *storageSource) run(in *invocation, what string, args StorageArgs) error {
	if s.Config != "" && s.Data != "" {
		return usagef("--config and --data exclude each other: one file describes one agent's storage")
	}
	var cfg *config.Agent
	var err error
	if s.Config != "" {
		cfg, err = in.load(s.Config, s.Set)
	} else if s.Data == "" && (len(s.Set) > 0 || in.getenv("VARVE_METADATA_URL") != "") {
		cfg, err = in.load("", s.Set)
	} else {
		cfg, err = in.dev(s.Data, "", "", s.Set)
	}
	if err != nil {
		return err
	}
	args.JSON = s.JSON
	return in.run.Storage(in.ctx, cfg, what, args, in.stdout)
}

type storageLsCmd struct {
	storageSource
	Topic string `arg:"" optional:"" help:"Only this topic."`
}

func (storageLsCmd) Help() string {
	return `Without --config and --set it looks at the folder of varve dev.

Example:

    varve storage ls --data ./varve-data`
}

func (c *storageLsCmd) Run(in *invocation) error {
	return c.run(in, "ls", StorageArgs{Topic: c.Topic, Partition: -1})
}

type storageDescribeCmd struct {
	storageSource
	Topic     string `arg:"" help:"The topic."`
	Partition int32  `default:"-1" help:"Only this partition."`
}

func (storageDescribeCmd) Help() string {
	return `Example:

    varve storage describe orders --partition 0 --data ./varve-data`
}

func (c *storageDescribeCmd) Run(in *invocation) error {
	return c.run(in, "describe", StorageArgs{Topic: c.Topic, Partition: c.Partition})
}

type storageVerifyCmd struct {
	storageSource
	Topic string `arg:"" optional:"" help:"Only this topic."`
	Bytes bool   `help:"Read every object whole and check each block."`
}

func (storageVerifyCmd) Help() string {
	return `Every row's object is there with its length and checksum, ranges tile without gap or overlap, and nothing lies
unreferenced but what its grace explains.

Example:

    varve storage verify --bytes --data ./varve-data`
}

func (c *storageVerifyCmd) Run(in *invocation) error {
	return c.run(in, "verify", StorageArgs{Topic: c.Topic, Partition: -1, Bytes: c.Bytes})
}
