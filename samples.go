package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
)

// sampleDefinitions are what dev mode starts with, so that there is something
// to run. Memory in MB, cpu in millicores.
func sampleDefinitions() []state.Definition {
	const group, image = "samples", "debian:bookworm"
	return []state.Definition{
		{Alias: "hello", GroupName: group, Image: image, Memory: new(int64(512)), CPU: new(int64(250)),
			Command: new("echo \"hello, $FLOTILLA_RUN_OWNER_ID\""), Tags: []string{"sample"}},
		{Alias: "count", GroupName: group, Image: image, Memory: new(int64(512)), CPU: new(int64(250)),
			Command: new("for i in $(seq 1 20); do echo \"$i of 20\"; sleep 1; done"), Tags: []string{"sample"}},
		{Alias: "hungry", GroupName: group, Image: image, Memory: new(int64(512)), CPU: new(int64(250)),
			Command: new("head -c 700M /dev/zero | tail | wc -c"), Tags: []string{"sample"}},
	}
}

// loadSamples stores the sample definitions in a database that has no
// definition at all: a sample that its user deleted stays deleted.
func loadSamples(ctx context.Context, definitions *services.DefinitionService) error {
	stored, err := definitions.List(ctx, state.ListOptions{})
	if err != nil || stored.Total > 0 {
		return err
	}
	for _, d := range sampleDefinitions() {
		var taken state.ConflictingResource
		if _, err := definitions.Create(ctx, d); err != nil && !errors.As(err, &taken) {
			return err
		}
	}
	return nil
}

// greet tells a newcomer what to try.
func greet(out io.Writer, s devServer) {
	fmt.Fprintf(out, `Flotilla answers at %[1]s (Ctrl-C ends it; what it keeps is found again by the next start). Try:

  curl -s %[1]s/api/v6/task
  curl -s -X PUT -H 'Content-Type: application/json' -d '{"run_tags":{"owner_id":"me"}}' %[1]s/api/v6/task/alias/hello/execute
  curl -s '%[1]s/api/v6/history?sort_by=queued_at&order=desc&limit=1'

`, s.URL)
}
