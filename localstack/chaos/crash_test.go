package chaos

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"varve.dev/localstack/pgserver/pgtest"
)

// Flags of a longer run: go test ./localstack/chaos -run TestCrash -rounds 200 -seed 7 -timeout 1h.
var (
	roundsFlag = flag.Int("rounds", ciRounds, "rounds of the crash test, on each store")
	seedFlag   = flag.Uint64("seed", 1, "seed of the crash test")
)

// generation is how many rounds one set of topics lives: everything of it is read back after each.
const generation = 5

// TestCrashEmbedded kills an agent on SQLite and a directory, again and again. Each partition becomes a segment at once.
func TestCrashEmbedded(t *testing.T) {
	crash(t, embedded(t, build(t)), *roundsFlag, *seedFlag)
}

// TestCrashEmbeddedPacks is the same with runs that leave as packs.
func TestCrashEmbeddedPacks(t *testing.T) {
	crash(t, embedded(t, build(t)).with("seal.extent.min.bytes=1048576"), max(1, *roundsFlag/2), *seedFlag+1)
}

// TestCrashCluster kills an agent on PostgreSQL and an S3 server.
func TestCrashCluster(t *testing.T) {
	for i, driver := range []string{"s3", "minio"} {
		t.Run(driver, func(t *testing.T) {
			var pg pgtest.Shared
			t.Cleanup(func() {
				if err := pg.Stop(); err != nil {
					t.Error(err)
				}
			})
			w := cluster(t, build(t), &pg, driver)
			if i == 1 {
				w = w.with("seal.extent.min.bytes=1048576")
			}
			crash(t, w, *roundsFlag, *seedFlag+2+uint64(i))
		})
	}
}

// crashing is one world under a run of rounds.
type crashing struct {
	t     *testing.T
	w     *world
	rng   *rand.Rand
	agent *process
	load  *load
	kills int
	slow  time.Duration // the longest start
}

// shortRounds are enough for a plain go test; ciRounds run with VARVE_TEST_ALL=1.
const (
	shortRounds = 3
	ciRounds    = 20
)

func crash(t *testing.T, w *world, rounds int, seed uint64) {
	if testing.Short() || os.Getenv("VARVE_TEST_ALL") == "" && rounds == ciRounds {
		rounds = shortRounds
	}
	c := &crashing{t: t, w: w, rng: rand.New(rand.NewPCG(seed, 0))}
	t.Cleanup(func() {
		if c.agent != nil {
			c.agent.kill()
		}
	})
	acked, read := 0, 0
	c.restart()
	for round := 0; round < rounds && !t.Failed(); {
		var err error
		if c.load, err = newLoad(t.Context(), w.kafka, uint64(round/generation)+1, seed+uint64(round)); err != nil {
			t.Fatal(err)
		}
		c.load.agent.Store(c.agent)
		for last := min(round+generation, rounds); round < last && !t.Failed(); round++ {
			c.round(round)
		}
		if !t.Failed() {
			if err := c.load.deleteAll(t.Context()); err != nil {
				t.Error(err)
			}
		} else {
			c.report(seed, round)
		}
		a, r := c.load.rec.Counts()
		acked, read = acked+a, read+r
		c.load.close()
	}
	t.Logf("seed %d: %d kills, %d records acknowledged, %d read, slowest start %s", seed, c.kills, acked, read, c.slow.Round(time.Millisecond))
	if err := c.agent.stop(); err != nil {
		t.Errorf("the agent ended with %v after SIGTERM\n%s", err, c.agent.log)
	}
	c.verify("at the end")
}

// report keeps what is needed to look at a failure.
func (c *crashing) report(seed uint64, round int) {
	path := filepath.Join(c.t.ArtifactDir(), "history.json")
	if err := c.load.rec.Save(path); err != nil {
		c.t.Error(err)
	}
	c.t.Logf("failed in round %d of seed %d; history: %s\nthe agent's log:\n%s", round, seed, path, c.agent.log)
}

// round works, kills at a random moment, works on, and reads everything back.
func (c *crashing) round(n int) {
	working, stop := context.WithCancel(c.t.Context())
	done := make(chan error, 1)
	go func() { done <- c.load.work(c.t.Context(), working, n) }()
	x := c.rng.Float64()
	pause(c.t.Context(), 300*time.Millisecond+time.Duration(x*x*2.7*float64(time.Second)))
	c.kill()
	c.restart()
	pause(c.t.Context(), time.Duration(c.rng.IntN(300))*time.Millisecond)
	stop()
	if err := <-done; err != nil {
		c.t.Errorf("round %d: %v", n, err)
		return
	}
	if c.rng.IntN(4) == 0 { // right behind the last acknowledgement
		c.kill()
		c.verify(fmt.Sprintf("killed after round %d", n))
		c.restart()
	}
	c.load.judge(c.t.Context(), c.t, c.rng, fmt.Sprintf("round %d", n))
}

// verify proves that index and object store agree, while nobody works.
func (c *crashing) verify(when string) {
	if out, err := c.w.verify(c.t); err != nil {
		c.t.Errorf("storage verify %s: %v\n%s", when, err, out)
	}
}

func (c *crashing) kill() {
	c.agent.kill()
	c.kills++
}

// restart starts the agent in another mood; now and then it is killed before it is up.
func (c *crashing) restart() {
	for c.rng.IntN(4) == 0 {
		p, ready, err := launch(c.w.program, nil, c.w.with(mood(c.rng)...).args()...)
		if err != nil {
			c.t.Fatal(err)
		}
		delay := time.NewTimer(time.Duration(c.rng.IntN(150)) * time.Millisecond)
		select {
		case <-ready:
		case <-delay.C:
		case <-p.exited:
			c.t.Fatalf("the agent ended at its start: %v\n%s", p.err, p.log)
		}
		delay.Stop()
		p.kill()
		c.kills++
	}
	began := time.Now()
	p, err := c.w.with(mood(c.rng)...).start()
	if err != nil {
		c.t.Fatal(err)
	}
	if p.log.has("set aside") {
		c.t.Errorf("an agent alone on its disk gave something up:\n%s", p.log)
	}
	c.slow = max(c.slow, time.Since(began))
	c.agent = p
	if c.load != nil {
		c.load.agent.Store(p)
	}
}
