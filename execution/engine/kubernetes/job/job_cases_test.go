package job

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/state"
)

const testRunID = "eks-8e2d1c37-0f1b-4c52-9d6a-7f2b6a51"

// jobCase is one example of a Job: what differs from the plain one, and what must be true of it. The cluster tests send
// every example to a real API server too.
type jobCase struct {
	change func(in *Input)
	check  func(t *testing.T, job *batchv1.Job)
}

// plainInput returns a run with a command and nothing else.
func plainInput() Input {
	return Input{
		Run: state.Run{
			RunID: testRunID, ClusterName: "local", Image: "127.0.0.1:5055/flotilla-test:latest", User: "someone",
			Tier: "Tier4", Command: new("echo hello"),
		},
		Executable: state.Definition{DefinitionID: "d-1"},
		Resources:  adapter.Resources{Size: state.Size{Memory: 512, CPU: 250}, Limit: state.Size{Memory: 512, CPU: 250}},
		Settings: Settings{
			Mode: "test",
			EKS: config.EKS{
				SchedulerName: "default-scheduler", JobNamespace: "default", ImagePullPolicy: "Always",
				TerminateGrace: 300 * time.Second,
			},
			Deadlines: config.Deadlines{Spot: 172800 * time.Second, OnDemand: 604800 * time.Second},
		},
		Now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
	}
}

func jobCases() map[string]jobCase {
	all := map[string]jobCase{}
	for _, some := range []map[string]jobCase{
		specCases(), attemptCases(), labelCases(), containerCases(), resourceCases(), placementCases(), teamCases(),
	} {
		for name, tc := range some {
			if _, dup := all[name]; dup {
				panic("two examples are called " + name)
			}
			all[name] = tc
		}
	}
	return all
}

func pod(job *batchv1.Job) corev1.PodSpec             { return job.Spec.Template.Spec }
func mainContainer(job *batchv1.Job) corev1.Container { return job.Spec.Template.Spec.Containers[0] }

func specCases() map[string]jobCase {
	return map[string]jobCase{
		"a plain run": {check: func(t *testing.T, job *batchv1.Job) {
			assert.Equal(t, "default", job.Namespace)
			assert.EqualValues(t, 604800, *job.Spec.TTLSecondsAfterFinished)
			assert.EqualValues(t, 0, *job.Spec.BackoffLimit)
			assert.Nil(t, job.Spec.ActiveDeadlineSeconds, "the Job's own would count the waiting")
			assert.Equal(t, corev1.RestartPolicyNever, pod(job).RestartPolicy)
			assert.Equal(t, "default-scheduler", pod(job).SchedulerName)
			assert.Empty(t, pod(job).ServiceAccountName)
			assert.EqualValues(t, 300, *pod(job).TerminationGracePeriodSeconds)
			assert.Nil(t, pod(job).Affinity)
			assert.Empty(t, pod(job).Tolerations)
			assert.Empty(t, pod(job).Volumes)
			assert.Len(t, pod(job).Containers, 1)
			assert.Equal(t, map[string]string{"prometheus.io/port": "9090", "prometheus.io/scrape": "true"},
				job.Spec.Template.Annotations)
		}},
		"scheduler, grace and pull policy come from the configuration": {
			change: func(in *Input) {
				in.Settings.EKS.SchedulerName = "other-scheduler"
				in.Settings.EKS.TerminateGrace = 2 * time.Second
				in.Settings.EKS.ImagePullPolicy = "IfNotPresent"
			},
			check: func(t *testing.T, job *batchv1.Job) {
				assert.Equal(t, "other-scheduler", pod(job).SchedulerName)
				assert.EqualValues(t, 2, *pod(job).TerminationGracePeriodSeconds)
				assert.Equal(t, corev1.PullIfNotPresent, mainContainer(job).ImagePullPolicy)
			}},
		"no grace at all": {
			change: func(in *Input) { in.Settings.EKS.TerminateGrace = 0 },
			check: func(t *testing.T, job *batchv1.Job) {
				assert.EqualValues(t, 0, *pod(job).TerminationGracePeriodSeconds)
			}},
		"a run's own service account": {
			change: func(in *Input) {
				in.Settings.EKS.DefaultServiceAccount, in.Run.ServiceAccount = "everyone", new("mine")
			},
			check: func(t *testing.T, job *batchv1.Job) { assert.Equal(t, "mine", pod(job).ServiceAccountName) }},
		"the default service account": {
			change: func(in *Input) {
				in.Settings.EKS.DefaultServiceAccount, in.Run.ServiceAccount = "everyone", new("")
			},
			check: func(t *testing.T, job *batchv1.Job) { assert.Equal(t, "everyone", pod(job).ServiceAccountName) }},
	}
}

func deadlineIs(seconds int64) func(t *testing.T, job *batchv1.Job) {
	return func(t *testing.T, job *batchv1.Job) { assert.Equal(t, seconds, *pod(job).ActiveDeadlineSeconds) }
}

func attemptCases() map[string]jobCase {
	retried := func(started time.Duration) func(in *Input) {
		return func(in *Input) {
			in.Run.AttemptCount, in.Run.ActiveDeadlineSeconds = new(int64(2)), new(int64(600))
			in.Run.StartedAt = new(in.Now.Add(-started))
		}
	}
	return map[string]jobCase{
		"the first attempt is called like the run": {
			change: func(in *Input) { in.Run.AttemptCount = new(int64(1)) },
			check:  func(t *testing.T, job *batchv1.Job) { assert.Equal(t, testRunID, job.Name) }},
		"the third attempt has its number": {
			change: func(in *Input) { in.Run.AttemptCount = new(int64(3)) },
			check: func(t *testing.T, job *batchv1.Job) {
				assert.Equal(t, testRunID+"-3", job.Name)
				assert.Equal(t, testRunID, job.Labels[LabelRunID])
				assert.Equal(t, testRunID, mainContainer(job).Name)
			}},
		"the deadline of spot": {
			change: func(in *Input) { in.Run.NodeLifecycle = new(state.SpotLifecycle) },
			check:  deadlineIs(172800)},
		"the deadline of on-demand": {
			change: func(in *Input) { in.Run.NodeLifecycle = new(state.OndemandLifecycle) },
			check:  deadlineIs(604800)},
		"the run's own deadline": {
			change: func(in *Input) { in.Run.ActiveDeadlineSeconds = new(int64(60)) },
			check:  deadlineIs(60)},
		"no deadline is longer than Kubernetes can count": {
			change: func(in *Input) { in.Run.ActiveDeadlineSeconds = new(int64(1) << 40) },
			check:  deadlineIs(1<<31 - 1)},
		"a later attempt gets what is left of the deadline": {change: retried(200 * time.Second), check: deadlineIs(400)},
		"a later attempt past its deadline gets a second":   {change: retried(time.Hour), check: deadlineIs(1)},
		"a clock that went back gives no more":              {change: retried(-time.Hour), check: deadlineIs(600)},
		"a later attempt of a run that never started gets all": {
			change: func(in *Input) {
				in.Run.AttemptCount, in.Run.ActiveDeadlineSeconds = new(int64(2)), new(int64(600))
			},
			check: deadlineIs(600)},
	}
}

func labelsAre(want map[string]string) func(t *testing.T, job *batchv1.Job) {
	return func(t *testing.T, job *batchv1.Job) {
		assert.Equal(t, want, job.Labels)
		assert.Equal(t, want, job.Spec.Template.Labels)
	}
}

func labelCases() map[string]jobCase {
	with := func(more map[string]string) map[string]string {
		labels := map[string]string{
			"cluster-name": "local", "flotilla-run-id": testRunID, "flotilla-run-mode": "test",
			"owner": "someone", "tier": "tier4",
		}
		for key, value := range more {
			labels[key] = value
		}
		return labels
	}
	own := func(labels state.Labels) func(in *Input) { return func(in *Input) { in.Run.Labels = labels } }
	return map[string]jobCase{
		"labels of a run without own ones": {check: labelsAre(with(nil))},
		"values are made valid": {
			change: func(in *Input) {
				in.Run.User, in.Run.Tier, in.Run.ClusterName = " Jane.Doe@Example.com ", "", "arn:aws:eks/prod"
				in.Settings.Mode = "_Prod_"
			},
			check: labelsAre(with(map[string]string{
				"owner": "jane.doe_example.com", "tier": "", "cluster-name": "arn_aws_eks_prod",
				"flotilla-run-mode": "prod",
			}))},
		"own labels": {
			change: own(state.Labels{"example.com/a": "B c", "d": "", "e": "-_.x.-_", "f": strings.Repeat("é", 99)}),
			check:  labelsAre(with(map[string]string{"example.com/a": "b_c", "d": "", "e": "x", "f": ""}))},
		"long values are cut": {
			change: own(state.Labels{"a": strings.Repeat("x", 62) + "-" + "y"}),
			check:  labelsAre(with(map[string]string{"a": strings.Repeat("x", 62)}))},
		"own labels replace what is only told": {
			change: own(state.Labels{"owner": "else", "tier": "Tier1"}),
			check:  labelsAre(with(map[string]string{"owner": "else", "tier": "tier1"}))},
		"own labels do not replace what a run is found by": {
			change: own(state.Labels{
				"flotilla-run-id": "x", "flotilla-run-mode": "x", "cluster-name": "x", "job-name": "x",
				"controller-uid": "x", "batch.kubernetes.io/job-name": "x", "batch.kubernetes.io/controller-uid": "x",
			}),
			check: labelsAre(with(nil))},
		"kube_task_name is the workflow where none is given": {
			change: own(state.Labels{"kube_task_name": "Load It"}),
			check:  labelsAre(with(map[string]string{"kube_task_name": "load_it", "kube_workflow": "load_it"}))},
		"kube_workflow is left as given": {
			change: own(state.Labels{"kube_task_name": "a", "kube_workflow": "b"}),
			check:  labelsAre(with(map[string]string{"kube_task_name": "a", "kube_workflow": "b"}))},
	}
}
