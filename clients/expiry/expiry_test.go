package expiry_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/expiry"
)

func TestOldFilesGoAndOthersStay(t *testing.T) {
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

	deleted, err := expiry.Files(t.Context(), dir, limit)
	require.NoError(t, err)
	assert.Equal(t, 2, deleted)
	assert.NoFileExists(t, filepath.Join(dir, "a", "old"))
	assert.NoFileExists(t, filepath.Join(dir, "a", "b", "old"))
	assert.FileExists(t, filepath.Join(dir, "a", "new"))
	assert.FileExists(t, filepath.Join(elsewhere, "old"))

	deleted, err = expiry.Files(t.Context(), filepath.Join(dir, "none"), limit)
	require.NoError(t, err)
	assert.Zero(t, deleted)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = expiry.Files(ctx, dir, time.Now())
	require.ErrorIs(t, err, context.Canceled)
	assert.FileExists(t, filepath.Join(dir, "a", "new"))
}
