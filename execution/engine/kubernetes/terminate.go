package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/state"
)

// openLogWithin bounds how long a stop waits for the log to be followed, so that it holds the run's last words.
const openLogWithin = 2 * time.Second

// Terminate deletes the Job and pod of the run's attempt. The container gets SIGTERM now and SIGKILL when its grace
// period is over. What it writes until then is in the log.
func (e *Engine) Terminate(ctx context.Context, run state.Run) error {
	if run.StartedAt != nil {
		opening, cancel := context.WithTimeout(ctx, openLogWithin)
		e.logbook.open(opening, run, run.Attempt())
		cancel()
	}
	name := job.Name(run)
	if b := e.following(); b != nil {
		b.ask(name)
	}
	r := removal{namespace: e.namespaceOf(run), jobName: name}
	if run.PodName != nil {
		r.pod = *run.PodName
	}
	return e.remove(ctx, r)
}

// removal names what is to be deleted.
type removal struct {
	namespace, jobName string
	// pod is empty where it is not known.
	pod string
}

// remove deletes a Job and its pods; that they are gone already is no error. The pods are deleted explicitly: the
// garbage collector would come for them later.
func (e *Engine) remove(ctx context.Context, r removal) error {
	background := metav1.DeletePropagationBackground
	err := e.cfg.Kube.Client.BatchV1().Jobs(r.namespace).Delete(ctx, r.jobName, metav1.DeleteOptions{PropagationPolicy: &background})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting the Job: %w", err)
	}
	pods := []string{r.pod}
	if r.pod == "" {
		if pods, err = e.podsOf(ctx, r.namespace, labelJobName+"="+r.jobName); err != nil {
			return err
		}
	}
	var failed []error
	for _, pod := range pods {
		err := e.cfg.Kube.Client.CoreV1().Pods(r.namespace).Delete(ctx, pod, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			failed = append(failed, fmt.Errorf("deleting the pod: %w", err))
		}
	}
	return errors.Join(failed...)
}

// podsOf names the pods that a label selector chooses, oldest first.
func (e *Engine) podsOf(ctx context.Context, namespace, selector string) ([]string, error) {
	list, err := e.cfg.Kube.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("listing the run's pods: %w", err)
	}
	byAge(list.Items)
	names := make([]string, len(list.Items))
	for i := range list.Items {
		names[i] = list.Items[i].Name
	}
	return names, nil
}
