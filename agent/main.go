// Command varve is the whole product in one binary: an agent, and the tools that talk to it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"varve.dev/agent/cli"
	"varve.dev/agent/node"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, cli.Runners{Agent: node.Run, Storage: node.Storage})
	stop()
	os.Exit(code)
}
