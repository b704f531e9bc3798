package flotilla_test

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/flotilla"
	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
)

const logPath = "/api/v6/eks-child/logs"

// stop ends a run as its cluster does.
func (a *testAPI) stop(t testing.TB, runID string) {
	t.Helper()
	moved, err := a.manager.MoveRun(context.Background(), runID, 1, state.StatusStopped, state.RunUpdate{ExitCode: new(int64(0))})
	require.NoError(t, err)
	require.True(t, moved)
}

func TestPollingALogYieldsEveryByteOnce(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	var whole, seen strings.Builder
	position := ""
	poll := func() {
		t.Helper()
		page := a.ok(t, http.MethodGet, logPath+"?last_seen="+url.QueryEscape(position), "")
		next, _ := page["last_seen"].(string)
		require.NotEmpty(t, next)
		if page["log"] == "" && position != "" {
			require.Equal(t, position, next, "nothing new leaves the position")
		}
		text, _ := page["log"].(string)
		seen.WriteString(text)
		position = next
	}
	poll()
	assert.Equal(t, "0", position, "before the first byte")
	for _, part := range []string{"first line\n", "half a li", "ne\n", "héllo ✓\n", strings.Repeat("0123456789abcdef", 40_000), "\n"} {
		whole.WriteString(part)
		a.engine.write("eks-child", part)
		for range 4 {
			poll()
		}
	}
	a.stop(t, "eks-child")
	poll()
	assert.Equal(t, whole.String(), seen.String())
	t.Run("a value that is no position begins at the start", func(t *testing.T) {
		for _, foreign := range []string{"-1", "x", "99999999999999999999", "7", "s/12345", strings.Repeat("9", 5000)} {
			page := a.ok(t, http.MethodGet, logPath+"?last_seen="+url.QueryEscape(foreign), "")
			text, _ := page["log"].(string)
			assert.True(t, strings.HasPrefix(text, "first line\n"), foreign)
		}
	})
}

func TestTheWholeLogIsStreamed(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	text := strings.Repeat("a line that repeats itself\n", 100_000) + "\xff\x00 as it is"
	a.engine.write("eks-child", text)
	got := a.call(t, http.MethodGet, logPath+"?raw_text=true", "")
	assert.Equal(t, http.StatusOK, got.status)
	assert.Equal(t, "text/plain; charset=utf-8", got.header.Get("Content-Type"))
	assert.Equal(t, text, string(got.body))
}

func TestAStreamMayTakeLongerThanTheWriteTimeout(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *flotilla.RouterConfig) {
		c.HTTP.WriteTimeout = 200 * time.Millisecond
		c.HTTP.ReadTimeout = 200 * time.Millisecond
	})
	a.seed(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	request := a.request(t, http.MethodGet, logPath+"?follow=true", "").WithContext(ctx)
	response, err := a.client.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewScanner(response.Body)
	for i := range 6 {
		// The pauses between the lines add up to more than the timeout.
		pause := time.NewTimer(100 * time.Millisecond)
		<-pause.C
		a.engine.write("eks-child", strings.Repeat("x", i+1)+"\n")
		require.True(t, scanTo(lines, "data: "+strings.Repeat("x", i+1)), "line %d: %v", i, lines.Err())
	}
	a.stop(t, "eks-child")
	assert.True(t, scanTo(lines, "event: end"))
}

func scanTo(lines *bufio.Scanner, want string) bool {
	for lines.Scan() {
		if lines.Text() == want {
			return true
		}
	}
	return false
}

func TestFollowingALogSendsEventsUntilTheRunStops(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	a.engine.write("eks-child", "one\r\n\nprogress 1%\rprogress 2%\n\xffbytes\nno line feed at the end")
	a.stop(t, "eks-child")
	got := a.call(t, http.MethodGet, logPath+"?follow=true", "")
	assert.Equal(t, http.StatusOK, got.status)
	assert.Equal(t, "text/event-stream; charset=utf-8", got.header.Get("Content-Type"))
	events := strings.Split(strings.TrimSpace(string(got.body)), "\n\n")
	var data, ids []string
	for _, event := range events {
		var texts []string
		for line := range strings.SplitSeq(event, "\n") {
			if id, ok := strings.CutPrefix(line, "id: "); ok {
				ids = append(ids, id)
			}
			if text, ok := strings.CutPrefix(line, "data:"); ok {
				texts = append(texts, strings.TrimPrefix(text, " "))
			}
		}
		data = append(data, strings.Join(texts, "\n"))
	}
	assert.Equal(t, []string{"", "one", "", "progress 1%\nprogress 2%", "\uFFFDbytes", "no line feed at the end", `{"status":"STOPPED","exit_code":0}`}, data)
	assert.Contains(t, events[len(events)-1], "event: end")
	t.Run("a browser that reconnects goes on where it was", func(t *testing.T) {
		r := a.request(t, http.MethodGet, logPath+"?follow=true", "")
		r.Header.Set("Last-Event-ID", ids[3])
		again := string(a.send(t, r).body)
		assert.NotContains(t, again, "bytes")
		assert.Contains(t, again, "no line feed at the end")
	})
	t.Run("a reconnect after the end gets 204", func(t *testing.T) {
		assert.Equal(t, services.LogEnd, ids[len(ids)-1])
		r := a.request(t, http.MethodGet, logPath+"?follow=true", "")
		r.Header.Set("Last-Event-ID", services.LogEnd)
		got := a.send(t, r)
		assert.Equal(t, http.StatusNoContent, got.status)
		assert.Empty(t, got.body)
	})
	t.Run("no proxy buffers the stream", func(t *testing.T) {
		assert.Equal(t, "no", got.header.Get("X-Accel-Buffering"))
	})
	t.Run("tail begins before the end, in every form", func(t *testing.T) {
		assert.Equal(t, "no line feed at the end", a.ok(t, http.MethodGet, logPath+"?tail=1", "")["log"])
		assert.Equal(t, "no line feed at the end", string(a.call(t, http.MethodGet, logPath+"?raw_text=true&tail=1", "").body))
		tail := string(a.call(t, http.MethodGet, logPath+"?follow=true&tail=1", "").body)
		assert.NotContains(t, tail, "bytes")
		assert.Contains(t, tail, "data: no line feed at the end\n")
		for _, wrong := range []string{"-1", "x", "1.5"} {
			assert.Equal(t, http.StatusBadRequest, a.call(t, http.MethodGet, logPath+"?tail="+wrong, "").status)
		}
	})
	t.Run("an unknown run is no stream", func(t *testing.T) {
		assert.Equal(t, http.StatusNotFound, a.call(t, http.MethodGet, "/api/v6/nope/logs?follow=true", "").status)
	})
	t.Run("malformed parameters are refused", func(t *testing.T) {
		assert.Equal(t, http.StatusBadRequest, a.call(t, http.MethodGet, logPath+"?follow=maybe", "").status)
		assert.Equal(t, http.StatusBadRequest, a.call(t, http.MethodGet, logPath+"?raw_text=yes", "").status)
	})
}

func TestAResumedStreamWaitsForTheDatabase(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	a.engine.write("eks-child", "one\ntwo\n")
	position, _ := a.ok(t, http.MethodGet, logPath, "")["last_seen"].(string)
	present := a.manager
	a.manager = unreachableManager(t, a)
	a.serve(t)
	follow := func(path, position string) *http.Response {
		t.Helper()
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		request := a.request(t, http.MethodGet, path, "").WithContext(ctx)
		request.Header.Set("Last-Event-ID", position)
		response, err := a.client.Do(request)
		require.NoError(t, err)
		t.Cleanup(func() { _ = response.Body.Close() })
		return response
	}
	for name, position := range map[string]string{
		"a new reader": "", "a position of another log": strings.Replace(position, "-", "-0", 1), "the end of a log": services.LogEnd,
	} {
		response := follow(logPath+"?follow=true", position)
		assert.Equal(t, http.StatusServiceUnavailable, response.StatusCode, name)
		assert.NotEmpty(t, response.Header.Get("Retry-After"), name)
	}
	other := follow("/api/v6/eks-parent/logs?follow=true", position)
	assert.Equal(t, http.StatusServiceUnavailable, other.StatusCode, "a position of another run")

	response := follow(logPath+"?follow=true", position)
	assert.Equal(t, http.StatusOK, response.StatusCode)
	assert.True(t, scanTo(bufio.NewScanner(response.Body), ": log of eks-child"))
	a.manager = present
}

func TestTheStreamEndsWithItsReader(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	ctx, cancel := context.WithCancel(context.Background())
	response, err := a.client.Do(a.request(t, http.MethodGet, logPath+"?follow=true", "").WithContext(ctx))
	require.NoError(t, err)
	cancel()
	_ = response.Body.Close()
	// The server of the test waits for its requests when it is closed, and the check for leaked goroutines fails if this
	// one goes on.
}

func TestAShutdownEndsStreams(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	cfg := a.routerConfig(t)
	router, err := flotilla.NewRouter(cfg)
	require.NoError(t, err)
	server := flotilla.NewServer(router, cfg.HTTP, cfg.Logger)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	a.url = "http://" + listener.Addr().String()
	response, err := a.client.Do(a.request(t, http.MethodGet, logPath+"?follow=true", ""))
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	assert.NoError(t, server.Shutdown(ctx))
	assert.ErrorIs(t, <-served, http.ErrServerClosed)
}
