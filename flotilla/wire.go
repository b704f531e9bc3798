package flotilla

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stitchfix/flotilla-os/api"
	"github.com/stitchfix/flotilla-os/state"
)

// The types of the wire (package api) and those of the domain (package state) meet in this file: a function named
// …Answer makes what is sent, one named …Of reads what was received.

func runAnswer(r *state.Run) api.Run {
	return api.Run{
		RunID: r.RunID, DefinitionID: r.DefinitionID, Alias: r.Alias, Image: r.Image, Cluster: r.ClusterName,
		ExitCode: r.ExitCode, ExitReason: valueOf(r.ExitReason), Status: api.Status(r.Status), StatusReason: valueOf(r.StatusReason),
		QueuedAt: utc(r.QueuedAt), StartedAt: utc(r.StartedAt), FinishedAt: utc(r.FinishedAt),
		Instance: api.Instance{InstanceID: r.InstanceID, DNSName: r.InstanceDNS}, GroupName: r.GroupName, User: r.User,
		TaskType: r.TaskType, Env: envAnswer(r.Env), Command: valueOf(r.Command), CommandHash: valueOf(r.CommandHash),
		Memory: r.Memory, MemoryLimit: r.MemoryLimit, CPU: r.CPU, CPULimit: r.CPULimit, GPU: r.GPU,
		Engine: r.Engine, NodeLifecycle: valueOf(r.NodeLifecycle), EphemeralStorage: r.EphemeralStorage,
		PodName: valueOf(r.PodName), Namespace: valueOf(r.Namespace), MaxMemoryUsed: r.MaxMemoryUsed, MaxCPUUsed: r.MaxCPUUsed,
		PodEvents: mapped(r.PodEvents, eventAnswer), CloudTrail: cloudTrailAnswer(r.CloudTrail),
		ExecutableID: valueOf(r.ExecutableID), ExecutableType: string(r.ExecutableType), RequestCustom: r.RequestCustom,
		AttemptCount:  r.AttemptCount,
		SpawnedRuns:   mapped(r.SpawnedRuns, func(s *state.SpawnedRun) api.SpawnedRun { return api.SpawnedRun(*s) }),
		RunExceptions: r.RunExceptions, ActiveDeadlineSeconds: r.ActiveDeadlineSeconds, SparkExtension: sparkAnswer(r),
		MetricsURI: valueOf(r.MetricsURI), Description: r.Description, IdempotenceKey: valueOf(r.IdempotenceKey),
		Arch: valueOf(r.Arch), Labels: r.Labels, RequiresDocker: r.RequiresDocker, ServiceAccount: valueOf(r.ServiceAccount),
		Tier: r.Tier,
	}
}

func eventAnswer(e *state.PodEvent) api.PodEvent {
	answer := api.PodEvent(*e)
	answer.Timestamp = utc(e.Timestamp)
	return answer
}

func cloudTrailAnswer(c state.CloudTrailNotifications) (answer api.CloudTrail) {
	if c.Records == nil {
		return answer
	}
	answer.Records = mapped(c.Records, func(r *state.CloudTrailRecord) api.CloudTrailRecord {
		return api.CloudTrailRecord{UserIdentity: api.CloudTrailIdentity(r.UserIdentity), EventSource: r.EventSource, EventName: r.EventName}
	})
	return answer
}

// noSpark is the extension of runs that have none.
var noSpark = api.SparkExtension(`{}`)

// sparkAnswer returns the Spark extension of a run as it is shown: secrets hidden, executors taken from the pod events,
// and the live page as history page while the run has not stopped.
func sparkAnswer(r *state.Run) api.SparkExtension {
	if r.SparkExtension == nil {
		return noSpark
	}
	shown := *r.SparkExtension
	shown.HiveConf = slices.Clone(shown.HiveConf)
	for i, conf := range shown.HiveConf {
		if conf.Value != nil && strings.Contains(valueOf(conf.Name), "ConnectionPassword") {
			shown.HiveConf[i].Value = new("****")
		}
	}
	if executors := executorsOf(r.PodEvents); len(executors) > 0 {
		shown.Executors = executors
	}
	if !r.Status.Final() && valueOf(shown.AppURI) != "" {
		shown.HistoryURI = shown.AppURI
	}
	raw, err := json.Marshal(shown)
	if err != nil {
		return noSpark // It was read from JSON, so it can be written as JSON.
	}
	return raw
}

// executorPod finds the number of an executor in the name of its pod.
var executorPod = regexp.MustCompile(`-exec-(\d+)$`)

// executorsOf lists the executor pods that the events name, once each, in the order of their numbers.
func executorsOf(events state.PodEvents) []string {
	number := map[string]int{}
	var pods []string
	for _, event := range events {
		match := executorPod.FindStringSubmatch(event.SourceObject)
		if _, seen := number[event.SourceObject]; seen || match == nil {
			continue
		}
		n, err := strconv.Atoi(match[1])
		if err != nil {
			continue
		}
		number[event.SourceObject] = n
		pods = append(pods, event.SourceObject)
	}
	slices.SortStableFunc(pods, func(a, b string) int { return number[a] - number[b] })
	return pods
}

// executionRequest converts what launch and template requests share.
func executionRequest(b api.LaunchFields, owner string) (*state.ExecutionRequestCommon, error) {
	spark, err := sparkOf(b.SparkExtension)
	if err != nil {
		return nil, err
	}
	return &state.ExecutionRequestCommon{
		ClusterName: b.Cluster, OwnerID: owner, Env: envOf(b.Env), Command: b.Command,
		Memory: b.Memory, CPU: b.CPU, GPU: b.GPU, EphemeralStorage: b.EphemeralStorage,
		Engine: b.Engine, NodeLifecycle: given(b.NodeLifecycle), ActiveDeadlineSeconds: b.ActiveDeadlineSeconds,
		SparkExtension: spark, Description: b.Description, CommandHash: b.CommandHash, IdempotenceKey: b.IdempotenceKey,
		Arch: b.Arch, Labels: b.Labels, ServiceAccount: b.ServiceAccount, Tier: b.Tier,
	}, nil
}

func sparkOf(raw api.SparkExtension) (*state.SparkExtension, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var spark *state.SparkExtension
	err := decodeInto(raw, &spark, "spark_extension")
	return spark, err
}

func definitionAnswer(d *state.Definition) api.Definition {
	return api.Definition{
		DefinitionID: d.DefinitionID, GroupName: d.GroupName, Alias: d.Alias, Command: valueOf(d.Command), TaskType: d.TaskType,
		RequiresDocker: d.RequiresDocker, TargetCluster: valueOf(d.TargetCluster), Image: d.Image,
		Memory: d.Memory, CPU: d.CPU, GPU: d.GPU, EphemeralStorage: d.EphemeralStorage, Env: envAnswer(d.Env),
		AdaptiveResourceAllocation: new(d.AdaptiveResourceAllocation == nil || *d.AdaptiveResourceAllocation),
		Ports:                      d.Ports, Tags: d.Tags,
	}
}

func definitionOf(d api.Definition) state.Definition {
	return state.Definition{
		GroupName: d.GroupName, Alias: d.Alias, Command: given(d.Command), TaskType: d.TaskType,
		RequiresDocker: d.RequiresDocker, TargetCluster: given(d.TargetCluster), Image: d.Image,
		Memory: d.Memory, CPU: d.CPU, GPU: d.GPU, EphemeralStorage: d.EphemeralStorage, Env: envOf(d.Env),
		AdaptiveResourceAllocation: d.AdaptiveResourceAllocation, Ports: d.Ports, Tags: tagsOf(d.Tags),
	}
}

// tagsOf drops empty tags: old databases hold them, and clients write back what they read.
func tagsOf(tags []string) []string {
	return slices.DeleteFunc(slices.Clone(tags), func(tag string) bool { return strings.TrimSpace(tag) == "" })
}

func envAnswer(env state.EnvList) []api.EnvVar {
	return mapped(env, func(v *state.EnvVar) api.EnvVar { return api.EnvVar(*v) })
}

func envOf(env []api.EnvVar) state.EnvList {
	return mapped(env, func(v *api.EnvVar) state.EnvVar { return state.EnvVar(*v) })
}

func clusterAnswer(c *state.Cluster) api.Cluster {
	return api.Cluster{
		ID: c.ID, Name: c.Name, ClusterVersion: c.ClusterVersion, Status: string(c.Status), StatusReason: c.StatusReason,
		StatusSince: utc(c.StatusSince), AllowedTiers: present(c.AllowedTiers), Capabilities: present(c.Capabilities),
		UpdatedAt: utc(c.UpdatedAt), Namespace: c.Namespace, Region: c.Region,
		EMRVirtualCluster: c.EMRVirtualCluster, SparkServerURI: c.SparkServerURI,
	}
}

func clusterOf(c api.ClusterRequest) state.Cluster {
	return state.Cluster{
		Name: c.Name, ClusterVersion: c.ClusterVersion, Status: state.ClusterStatus(c.Status), StatusReason: c.StatusReason,
		AllowedTiers: c.AllowedTiers, Capabilities: c.Capabilities, Namespace: c.Namespace, Region: c.Region,
		EMRVirtualCluster: c.EMRVirtualCluster, SparkServerURI: c.SparkServerURI,
	}
}

func workerAnswer(w *state.Worker) api.Worker {
	return api.Worker{WorkerType: string(w.WorkerType), CountPerInstance: w.CountPerInstance, Engine: w.Engine}
}

func templateAnswer(t *state.Template) api.Template {
	return api.Template{
		TemplateID: t.TemplateID, TemplateName: t.TemplateName, Version: t.Version, Schema: orEmpty(t.Schema),
		CommandTemplate: t.CommandTemplate, Defaults: orEmpty(t.Defaults), AvatarURI: t.AvatarURI, Image: t.Image,
		Memory: t.Memory, CPU: t.CPU, GPU: t.GPU, EphemeralStorage: t.EphemeralStorage, Env: envAnswer(t.Env),
		AdaptiveResourceAllocation: t.AdaptiveResourceAllocation, Ports: t.Ports, Tags: t.Tags,
	}
}

func orEmpty(o state.Object) map[string]any {
	if o == nil {
		return map[string]any{}
	}
	return o
}

// mapped converts a list; the result is never nil, so it is written as [].
func mapped[From, To any](list []From, convert func(*From) To) []To {
	out := make([]To, len(list))
	for i := range list {
		out[i] = convert(&list[i])
	}
	return out
}

// valueOf returns what p points to, or zero.
func valueOf[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// given returns nil for an empty text: clients send both for "not given".
func given(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// present returns items, or an empty list for nil.
func present[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return slices.Clip(items)
}

// utc returns t in UTC, for an answer.
func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	return new(t.UTC())
}
