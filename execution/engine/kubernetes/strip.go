package kubernetes

import (
	"fmt"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What the follower keeps of each object is what it looks at: ten thousand whole Jobs and pods, with their commands
// and environments, would be hundreds of megabytes.

func stripObject(obj any) (any, error) {
	switch o := obj.(type) {
	case *batchv1.Job:
		return stripJob(o), nil
	case *corev1.Pod:
		return stripPod(o), nil
	case *corev1.Event:
		return o, nil
	}
	return nil, fmt.Errorf("kubernetes: unexpected object %T", obj)
}

func stripMeta(m metav1.ObjectMeta, labels ...string) metav1.ObjectMeta {
	kept := metav1.ObjectMeta{
		Name: strings.Clone(m.Name), Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
		DeletionGracePeriodSeconds: m.DeletionGracePeriodSeconds, Labels: map[string]string{},
	}
	for _, label := range labels {
		if value, ok := m.Labels[label]; ok {
			kept.Labels[label] = value
		}
	}
	if mark, ok := m.Annotations[annotationRecorded]; ok {
		kept.Annotations = map[string]string{annotationRecorded: mark}
	}
	return kept
}

func stripJob(j *batchv1.Job) *batchv1.Job {
	kept := &batchv1.Job{
		ObjectMeta: stripMeta(j.ObjectMeta, keptLabels...),
		Status:     batchv1.JobStatus{Conditions: j.Status.Conditions},
	}
	for _, c := range j.Spec.Template.Spec.Containers {
		kept.Spec.Template.Spec.Containers = []corev1.Container{{Resources: c.Resources}}
		break
	}
	return kept
}

func stripPod(p *corev1.Pod) *corev1.Pod {
	kept := &corev1.Pod{ObjectMeta: stripMeta(p.ObjectMeta, keptLabels...), Spec: corev1.PodSpec{NodeName: p.Spec.NodeName}}
	kept.Status = corev1.PodStatus{Phase: p.Status.Phase, Reason: p.Status.Reason, Message: p.Status.Message}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled || c.Type == corev1.DisruptionTarget {
			kept.Status.Conditions = append(kept.Status.Conditions, c)
		}
	}
	for _, c := range p.Status.ContainerStatuses {
		kept.Status.ContainerStatuses = append(kept.Status.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, State: c.State})
	}
	return kept
}
