package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"varve.dev/agent/config"
)

// healthCmd is varve health, which an image without a shell uses as its health check.
type healthCmd struct {
	HTTP    string        `name:"http" placeholder:"HOST:PORT" help:"The agent's http.listen. Default: VARVE_HTTP_LISTEN, else 127.0.0.1:8092."`
	Live    bool          `help:"Ask whether it runs, not whether it serves."`
	Timeout time.Duration `default:"5s" help:"How long to wait for the answer."`
}

func (healthCmd) Help() string {
	return `Exits with 0 when the agent is ready and with 1 when it is not.

Example:

    varve health --http 127.0.0.1:8092`
}

func (c *healthCmd) Run(in *invocation) error {
	key, _ := config.AgentKey("http.listen")
	address := cmp.Or(c.HTTP, in.getenv(key.Env()), key.Default)
	path := "/readyz"
	if c.Live {
		path = "/healthz"
	}
	ctx, cancel := context.WithTimeout(in.ctx, c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return usagef("%q is no HOST:PORT: %w", address, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no agent answers at %s: %w", address, err)
	}
	defer resp.Body.Close()
	const maxAnswer = 4 << 10 // a status page is one line for each check
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", address, err)
	}
	text := strings.TrimSpace(string(body))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the agent at %s is not ready: %s", address, cmp.Or(text, resp.Status))
	}
	_, err = fmt.Fprintln(in.stdout, cmp.Or(text, "ok"))
	return err
}

// versionCmd is varve version.
type versionCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

func (versionCmd) Help() string {
	return `Example:

    varve version --json`
}

type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// version reads what the toolchain wrote into the program: nothing has to be passed to the linker.
func version() versionInfo {
	v := versionInfo{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = cmp.Or(info.Main.Version, v.Version)
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func (c *versionCmd) Run(in *invocation) error {
	v := version()
	if c.JSON {
		return writeJSON(in.stdout, v)
	}
	line := "varve " + v.Version
	if v.Revision != "" {
		line += " " + v.Revision
	}
	_, err := fmt.Fprintf(in.stdout, "%s (%s, %s)\n", line, v.Go, v.Platform)
	return err
}
