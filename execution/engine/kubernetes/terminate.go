package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/state"
)

// Terminate deletes the Job and pod of the run's attempt. The container gets SIGTERM now and SIGKILL after its grace
// period; what it writes until then is in the log.
func (e *Engine) Terminate(ctx context.Context, run state.Run) error {
	if run.StartedAt != nil {
		p := e.logOfRun(run, run.Attempt())
		p.ended = false
		e.logStreams.open(ctx, p)
	}
	r := removal{namespace: e.namespaceOf(run), jobName: job.Name(run)}
	if known := e.following.Load(); known != nil {
		known.change(r.jobName, func(a *attempt) { a.asked = true })
	}
	if run.PodName != nil {
		r.pod = *run.PodName
	}
	return e.remove(ctx, r)
}

// removal names what is to be deleted.
type removal struct {
	namespace, jobName string
	// pod is empty if it is not known.
	pod string
}

// remove deletes a Job and its pods; that they are gone already is no error. The pods are deleted explicitly, because
// the garbage collector would come for them later.
func (e *Engine) remove(ctx context.Context, r removal) error {
	background := metav1.DeletePropagationBackground
	err := e.cfg.Kube.Client.BatchV1().Jobs(r.namespace).Delete(ctx, r.jobName, metav1.DeleteOptions{PropagationPolicy: &background})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the Job: %w", err)
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
			failed = append(failed, fmt.Errorf("delete the pod: %w", err))
		}
	}
	return errors.Join(failed...)
}

// podsOf returns the names of the pods that a label selector chooses, oldest first.
func (e *Engine) podsOf(ctx context.Context, namespace, selector string) ([]string, error) {
	list, err := e.cfg.Kube.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list the run's pods: %w", err)
	}
	slices.SortFunc(list.Items, func(x, y corev1.Pod) int {
		return cmp.Or(x.CreationTimestamp.Compare(y.CreationTimestamp.Time), cmp.Compare(x.Name, y.Name))
	})
	names := make([]string, len(list.Items))
	for i := range list.Items {
		names[i] = list.Items[i].Name
	}
	return names, nil
}
