package logs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/logs"
)

var (
	base = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	key  = logs.Key{RunID: "eks-0001", Attempt: 1}
)

// entry is a line of a container's log.
type entry struct {
	at   time.Time
	text string
}

// pod is what a cluster kept of a container's log.
type pod struct{ lines []entry }

func (p *pod) write(after time.Duration, text string) {
	p.lines = append(p.lines, entry{base.Add(after), text})
}

// since returns the log as the API serves it, from a whole second on.
func (p *pod) since(second time.Time) string {
	var b strings.Builder
	for _, l := range p.lines {
		if !l.at.Before(second) {
			fmt.Fprintf(&b, "%s %s", l.at.Format(time.RFC3339Nano), l.text)
		}
	}
	return b.String()
}

func (p *pod) text() string {
	var b strings.Builder
	for _, l := range p.lines {
		b.WriteString(l.text)
	}
	return b.String()
}

// makePod returns a log of n lines, three per second, some of them out of order as those of two streams are.
func makePod(n int) *pod {
	p := &pod{}
	for i := range n {
		at := time.Duration(i) * 333 * time.Millisecond
		if i%7 == 6 {
			at -= 340 * time.Millisecond
		}
		p.write(at, fmt.Sprintf("line %d\n", i))
	}
	return p
}

func newFiles(t *testing.T) *logs.Files {
	t.Helper()
	files, err := logs.NewFiles(t.TempDir())
	require.NoError(t, err)
	return files
}

func appendTo(t *testing.T, files *logs.Files) logs.Writer {
	t.Helper()
	w, err := files.Append(t.Context(), key)
	require.NoError(t, err)
	return w
}

// copyOnce continues from the mark, as the engine does; wrap may damage the stream.
func copyOnce(t *testing.T, files *logs.Files, p *pod, wrap func(io.Reader) io.Reader) error {
	t.Helper()
	w := appendTo(t, files)
	defer func() { require.NoError(t, w.Close()) }()
	mark, err := w.Mark()
	require.NoError(t, err)
	var source io.Reader = strings.NewReader(p.since(mark.Since))
	if wrap != nil {
		source = wrap(source)
	}
	return logs.Copy(w, logs.Source{Reader: source, Started: base})
}

func archived(t *testing.T, files *logs.Files) string {
	t.Helper()
	part, err := files.Read(t.Context(), key, 0, 1<<30)
	require.NoError(t, err)
	return string(part.Data)
}

func TestCopyRemovesTimes(t *testing.T) {
	t.Parallel()
	files := newFiles(t)
	p := &pod{}
	p.write(0, "a b  c\n")
	p.write(time.Millisecond, "\n")
	p.write(time.Millisecond, "2026-01-02T03:04:05Z is what the command wrote\n")
	p.write(time.Second, strings.Repeat("long ", 100_000)+"\n")
	p.write(time.Second, "\xff\x00no end")
	require.NoError(t, copyOnce(t, files, p, nil))
	assert.Equal(t, p.text(), archived(t, files))
}

func TestCopyLeavesOutLinesOfTheCluster(t *testing.T) {
	t.Parallel()
	files := newFiles(t)
	require.NoError(t, copyOnce(t, files, &pod{}, func(io.Reader) io.Reader {
		return strings.NewReader("unable to retrieve container logs for containerd://1\n")
	}))
	assert.Empty(t, archived(t, files))
}

// TestCopyContinues cuts a stream at every byte: the next one continues there.
func TestCopyContinues(t *testing.T) {
	t.Parallel()
	whole := makePod(40)
	for cut := range len(whole.since(time.Time{})) {
		files := newFiles(t)
		broken := errors.New("connection reset")
		err := copyOnce(t, files, whole, func(r io.Reader) io.Reader {
			return io.MultiReader(io.LimitReader(r, int64(cut)), failing{broken})
		})
		require.ErrorIs(t, err, broken)
		require.NoError(t, copyOnce(t, files, whole, nil))
		require.Equal(t, whole.text(), archived(t, files), "cut at %d", cut)
		require.NoError(t, copyOnce(t, files, whole, nil))
		require.Equal(t, whole.text(), archived(t, files), "nothing is written twice")
	}
}

// TestCopyContinuesAfterEachLine copies a log again with every line that it grows by.
func TestCopyContinuesAfterEachLine(t *testing.T) {
	t.Parallel()
	whole := makePod(60)
	files := newFiles(t)
	for n := range whole.lines {
		require.NoError(t, copyOnce(t, files, &pod{lines: whole.lines[:n+1]}, nil))
	}
	assert.Equal(t, whole.text(), archived(t, files))
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestCopyAfterACrash checks that what was written after the last mark is not written twice.
func TestCopyAfterACrash(t *testing.T) {
	t.Parallel()
	for name, marked := range map[string]int{"before the first mark": 0, "after a mark": 12, "the mark is damaged": -12} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			whole := makePod(40)
			dir := t.TempDir()
			files, err := logs.NewFiles(dir)
			require.NoError(t, err)
			damaged := marked < 0
			marked = max(marked, -marked)
			if marked > 0 {
				require.NoError(t, copyOnce(t, files, &pod{lines: whole.lines[:marked]}, nil))
			}
			if damaged {
				marks, err := filepath.Glob(filepath.Join(dir, "*", "*.mark"))
				require.NoError(t, err)
				require.Len(t, marks, 1)
				require.NoError(t, os.WriteFile(marks[0], []byte(`{"since"`), 0o600))
			}
			w := appendTo(t, files)
			rest := (&pod{lines: whole.lines[marked:25]}).text()
			_, err = w.Write([]byte(rest[:len(rest)-3]))
			require.NoError(t, err)
			require.NoError(t, w.Close())
			require.NoError(t, copyOnce(t, files, whole, nil))
			assert.Equal(t, whole.text(), archived(t, files))
		})
	}
}

func TestCopyReportsGaps(t *testing.T) {
	t.Parallel()
	whole := makePod(60)
	first, rest := whole.lines[:20], whole.lines[40:]

	t.Run("between two streams", func(t *testing.T) {
		t.Parallel()
		files := newFiles(t)
		require.NoError(t, copyOnce(t, files, &pod{lines: first}, nil))
		for range 3 {
			require.NoError(t, copyOnce(t, files, &pod{lines: rest}, nil))
			assert.Equal(t, (&pod{lines: first}).text()+logs.GapLine+(&pod{lines: rest}).text(), archived(t, files))
		}
	})
	t.Run("before the first stream", func(t *testing.T) {
		t.Parallel()
		files := newFiles(t)
		late := &pod{}
		late.write(time.Minute, "late\n")
		require.NoError(t, copyOnce(t, files, late, nil))
		late.write(time.Minute, "later\n")
		require.NoError(t, copyOnce(t, files, late, nil))
		assert.Equal(t, logs.BeginningLine+"late\nlater\n", archived(t, files))
	})
	t.Run("none if only archived lines are gone", func(t *testing.T) {
		t.Parallel()
		files := newFiles(t)
		tidy := &pod{}
		for i := range 30 {
			tidy.write(time.Duration(i)*400*time.Millisecond, fmt.Sprintf("line %d\n", i))
		}
		require.NoError(t, copyOnce(t, files, &pod{lines: tidy.lines[:20]}, nil))
		require.NoError(t, copyOnce(t, files, &pod{lines: tidy.lines[19:]}, nil))
		assert.Equal(t, tidy.text(), archived(t, files))
	})
}

func TestFiles(t *testing.T) {
	t.Parallel()
	files := newFiles(t)
	part, err := files.Read(t.Context(), key, 5, 10)
	require.NoError(t, err)
	assert.Equal(t, logs.Part{}, part, "a log without a writer")

	w := appendTo(t, files)
	_, err = files.Append(t.Context(), key)
	require.ErrorIs(t, err, logs.ErrBusy, "one writer at a time")
	_, err = w.Write([]byte("0123456789"))
	require.NoError(t, err)
	part, err = files.Read(t.Context(), key, 8, 10)
	require.NoError(t, err)
	assert.Equal(t, logs.Part{Data: []byte("89"), Size: 10}, part)
	require.NoError(t, w.Complete())
	require.NoError(t, w.Close())
	part, err = files.Read(t.Context(), key, 10, 10)
	require.NoError(t, err)
	assert.Equal(t, logs.Part{Size: 10, Complete: true}, part)
	require.NoError(t, appendTo(t, files).Close(), "the lock is released")

	_, err = files.Append(t.Context(), logs.Key{RunID: "../../etc/passwd", Attempt: 1})
	require.Error(t, err)
}

func TestDeleteOlder(t *testing.T) {
	t.Parallel()
	dir, elsewhere := t.TempDir(), t.TempDir()
	limit := time.Now().Add(-time.Hour)
	write := func(path string, at time.Time) {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
		require.NoError(t, os.Chtimes(path, at, at))
	}
	write(filepath.Join(dir, "a", "old"), limit.Add(-time.Minute))
	write(filepath.Join(dir, "a", "b", "old"), limit.Add(-time.Minute))
	write(filepath.Join(dir, "a", "new"), limit.Add(time.Minute))
	write(filepath.Join(elsewhere, "old"), limit.Add(-time.Minute))
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(dir, "link")))

	deleted, err := logs.DeleteOlder(t.Context(), dir, limit)
	require.NoError(t, err)
	assert.Equal(t, 2, deleted)
	assert.NoFileExists(t, filepath.Join(dir, "a", "old"))
	assert.NoFileExists(t, filepath.Join(dir, "a", "b", "old"))
	assert.FileExists(t, filepath.Join(dir, "a", "new"))
	assert.FileExists(t, filepath.Join(elsewhere, "old"))

	deleted, err = logs.DeleteOlder(t.Context(), filepath.Join(dir, "none"), limit)
	require.NoError(t, err)
	assert.Zero(t, deleted)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = logs.DeleteOlder(ctx, dir, time.Now())
	require.ErrorIs(t, err, context.Canceled)
	assert.FileExists(t, filepath.Join(dir, "a", "new"))
}
