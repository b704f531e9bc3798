package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/state"
)

// ManifestsFolder is where, within the data directory, manifests are kept.
const ManifestsFolder = "manifests"

// manifests keeps what was submitted, a file per attempt.
type manifests struct{ dir string }

func (m manifests) path(run state.Run) string {
	name := job.Name(run)
	// Folders of folders: one per two digits of the id's end, which is random.
	return filepath.Join(m.dir, name[max(0, len(run.RunID)-2):len(run.RunID)], name+".yaml")
}

func (m manifests) keep(run state.Run, j *batchv1.Job) error {
	body, err := job.ManifestYAML(j)
	if err != nil {
		return err
	}
	if filepath.Base(run.RunID) != run.RunID {
		return errors.New("the run's id cannot name a file")
	}
	path := m.path(run)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// The environment of a run may hold secrets.
	return os.WriteFile(path, body, 0o600)
}

// Manifest is the attempt's Job as it was submitted: the file kept by this server, else what the cluster has.
func (e *Engine) Manifest(ctx context.Context, run state.Run) ([]byte, error) {
	body, err := os.ReadFile(e.manifests.path(run))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return body, err
	}
	j, err := e.cfg.Kube.Client.BatchV1().Jobs(e.namespaceOf(run)).Get(ctx, job.Name(run), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, state.Missingf("Run %s has no manifest here.", run.RunID)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the Job: %w", err)
	}
	return job.ManifestYAML(j)
}
