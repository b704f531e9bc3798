package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/api"
	"github.com/stitchfix/flotilla-os/clients/postgres"
	"github.com/stitchfix/flotilla-os/server"
	"github.com/stitchfix/flotilla-os/state"
)

func newDemoCommand(t Terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Watch a job run out of memory and Flotilla size the next one, then leave",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return demo(cmd.Context(), t) },
	}
}

// demo shows Adaptive Resource Allocation with the real program: dev mode in a folder of its own, on a free port, with
// real processes under real memory limits. It fails unless everything that it shows has happened.
func demo(ctx context.Context, t Terminal) error {
	dir, err := os.MkdirTemp("", "flotilla-demo-")
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		return err
	}
	show := demonstration{out: t.Stdout, color: isTerminal(t.Stdout)}
	show.bold("Starting Flotilla in dev mode: a private Postgres, and jobs as processes of this machine.")

	err = withDevServer(ctx, server.DevOptions{Listen: "127.0.0.1:0", DataDir: filepath.Join(dir, demoData)},
		Terminal{Environ: t.Environ, Stdout: io.Discard, Stderr: log},
		func(ctx context.Context, ready server.Ready) error { return show.run(ctx, ready, t.Stdout) })
	err = errors.Join(err, log.Close())
	if err != nil {
		show.bold("The server's log is " + log.Name())
		return err
	}
	return removeDemo(dir)
}

// removeDemo removes the demo's folder, and the database if it is elsewhere (root's is).
func removeDemo(dir string) error {
	home, err := postgres.HomeOf(postgres.ServerConfig{DataDir: filepath.Join(dir, demoData)})
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(home), os.RemoveAll(dir))
}

// demoData is the data folder within the demo's folder.
const demoData = "data"

// withDevServer calls use while a dev server runs, and ends the server.
func withDevServer(ctx context.Context, o server.DevOptions, t Terminal, use func(context.Context, server.Ready) error) error {
	group, ctx := errgroup.WithContext(ctx)
	serving, stop := context.WithCancel(ctx)
	defer stop()
	ready := make(chan server.Ready, 1)
	o.Ready = func(s server.Ready) { ready <- s }
	group.Go(func() error { return dev(serving, "", o, t) })
	group.Go(func() error {
		defer stop()
		select {
		case s := <-ready:
			return use(ctx, s)
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return group.Wait()
}

// demoPatience bounds the wait for one run. It leaves room for a loaded machine.
const demoPatience = 2 * time.Minute

const (
	demoImage       = "debian:bookworm"
	demoDescription = "nightly sort"
	// demoMemory is the memory of the definition, in MB.
	demoMemory = 512
	// demoLearnt is the memory after one kill at demoMemory: × 1.75 (ara.md).
	demoLearnt = demoMemory * 7 / 4
	// demoHeavy needs about 700 MB: tail keeps the one line that it is sent.
	demoHeavy = "echo sorting 700 MB in memory\nhead -c 700M /dev/zero | tail | wc -c\necho all of it fitted"
	demoLight = "echo another command under the same description"
)

// demonstration prints each step and checks it.
type demonstration struct {
	out   io.Writer
	color bool
	url   string
}

func (d *demonstration) run(ctx context.Context, s server.Ready, out io.Writer) error {
	d.url = s.URL
	var definition api.Definition
	err := d.call(ctx, http.MethodPost, "/api/v6/task", map[string]any{
		"alias": "sort", "group_name": "demo", "image": demoImage, "memory": demoMemory, "cpu": 256, "command": demoHeavy,
	}, &definition)
	if err != nil {
		return err
	}
	d.bold(fmt.Sprintf("\nA job is defined: %q gives its container %d MB, and its command needs about 700 MB.", definition.Alias, demoMemory))

	first, err := d.execute(ctx, definition, "")
	if err != nil {
		return err
	}
	if err := expect("run 1", first, outcome{state.ExitCodeOOM, state.ReasonOOMKilled, demoMemory}); err != nil {
		return err
	}
	d.bad(fmt.Sprintf("Run 1 got %d MB and was killed for memory: exit code %d, %s.", *first.Memory, *first.ExitCode, first.ExitReason))

	second, err := d.execute(ctx, definition, "")
	if err != nil {
		return err
	}
	if err := expect("run 2", second, outcome{0, "", demoLearnt}); err != nil {
		return err
	}
	d.good(fmt.Sprintf("Run 2 of the same command got %d MB, because run 1 was killed, and succeeded.", *second.Memory))

	third, err := d.execute(ctx, definition, demoLight)
	if err != nil {
		return err
	}
	if err := expect("run 3", third, outcome{0, "", demoMemory}); err != nil {
		return err
	}
	d.good(fmt.Sprintf("Run 3, another command under the same description, still got %d MB: it inherits nothing from another command.", *third.Memory))
	return d.summarize(ctx, []api.Run{first, second, third}, s, out)
}

// summarize prints the runs, their hashes and sizes, the log of the second, and the verification of the database.
func (d *demonstration) summarize(ctx context.Context, runs []api.Run, s server.Ready, out io.Writer) error {
	if runs[0].CommandHash != runs[1].CommandHash || runs[0].CommandHash == runs[2].CommandHash {
		return fmt.Errorf("hashes: runs 1 and 2 must share one and run 3 have its own: %s, %s, %s",
			runs[0].CommandHash, runs[1].CommandHash, runs[2].CommandHash)
	}
	fmt.Fprintln(d.out)
	table := tabwriter.NewWriter(d.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "RUN\tCOMMAND HASH\tDESCRIPTION\tMEMORY\tPEAK\tEXIT\tREASON")
	for i, run := range runs {
		peak := "-"
		if run.MaxMemoryUsed != nil {
			peak = fmt.Sprintf("%d MB", *run.MaxMemoryUsed)
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%d MB\t%s\t%d\t%s\n",
			i+1, run.CommandHash, run.Description, *run.Memory, peak, *run.ExitCode, run.ExitReason)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	var log struct{ Log string }
	if err := d.call(ctx, http.MethodGet, "/api/v6/"+runs[1].RunID+"/logs", nil, &log); err != nil {
		return err
	}
	if !strings.Contains(log.Log, "all of it fitted") {
		return fmt.Errorf("the log of run 2 lacks its last line: %q", log.Log)
	}
	fmt.Fprintf(d.out, "\nThe log of run 2:\n  %s\n\n", strings.ReplaceAll(strings.TrimSpace(log.Log), "\n", "\n  "))
	d.bold("flotilla-os ara verify:")
	return verifyARA(ctx, s.Config, verifyOptions{Since: time.Hour}, out)
}

// outcome is the required end of a run; an empty reason is not checked.
type outcome struct {
	exitCode int64
	reason   string
	memory   int64
}

func expect(name string, run api.Run, want outcome) error {
	switch {
	case run.ExitCode == nil || *run.ExitCode != want.exitCode,
		want.reason != "" && run.ExitReason != want.reason,
		run.Memory == nil || *run.Memory != want.memory:
		got, err := json.Marshal(run)
		if err != nil {
			return err
		}
		return fmt.Errorf("%s did not end as it should (exit code %d, %d MB): %s", name, want.exitCode, want.memory, got)
	}
	return nil
}

// execute submits a run and waits until it has stopped.
func (d *demonstration) execute(ctx context.Context, definition api.Definition, command string) (api.Run, error) {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	body := map[string]any{"run_tags": map[string]string{"owner_id": "demo"}, "description": demoDescription}
	if command != "" {
		body["command"] = command
	}
	var run api.Run
	if err := d.call(ctx, http.MethodPut, "/api/v6/task/"+definition.DefinitionID+"/execute", body, &run); err != nil {
		return run, err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for run.Status != api.StatusStopped {
		select {
		case <-ctx.Done():
			return run, fmt.Errorf("run %s is still %s: %w", run.RunID, run.Status, ctx.Err())
		case <-tick.C:
		}
		if err := d.call(ctx, http.MethodGet, "/api/v6/history/"+run.RunID, nil, &run); err != nil {
			return run, err
		}
	}
	return run, nil
}

// call sends a request to the API and reads the answer into answer.
func (d *demonstration) call(ctx context.Context, method, path string, body, answer any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, d.url+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, got)
	}
	return json.Unmarshal(got, answer)
}

const (
	ansiBold  = "\x1b[1m"
	ansiRed   = "\x1b[31m"
	ansiGreen = "\x1b[32m"
	ansiPlain = "\x1b[0m"
)

func (d *demonstration) bold(line string) { d.print(ansiBold, line) }
func (d *demonstration) bad(line string)  { d.print(ansiRed, line) }
func (d *demonstration) good(line string) { d.print(ansiGreen, line) }

func (d *demonstration) print(color, line string) {
	if d.color {
		line = color + line + ansiPlain
	}
	fmt.Fprintln(d.out, line)
}
