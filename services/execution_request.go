package services

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/stitchfix/flotilla-os/state"
)

// engineECS is a word of old clients for "a container job, or a Spark job
// where there is a spark_extension".
const engineECS = "ecs"

// The architectures of a run.
const (
	archARM = "arm64"
	archAMD = "amd64"
)

// Variables that Flotilla itself sets in every run, beside the configured
// owner variable. What a request or definition says of them is dropped.
const (
	envServerMode  = "FLOTILLA_SERVER_MODE"
	envRunID       = "FLOTILLA_RUN_ID"
	envRoleSession = "AWS_ROLE_SESSION_NAME"
)

// resolve checks a request and makes every field final that follows from the
// request and the executable alone: engine, tier and command among them.
func (s *ExecutionService) resolve(executable runnable, req state.ExecutionRequest) (state.ExecutionRequestCommon, error) {
	fields := state.ExecutionRequestCommon{}
	if common := req.GetExecutionRequestCommon(); common != nil {
		fields = *common
	}
	var f faults
	f.request(fields)
	chosen, fault := engineOf(fields)
	if fault != "" {
		f.addf("%s", fault)
	}
	if err := f.err(); err != nil {
		return fields, err
	}
	fields.Engine = &chosen
	command, err := finalCommand(executable, fields, req)
	if err != nil {
		return fields, err
	}
	fields.Command = command
	fields.Env = withoutReserved(fields.Env, s.c.Config.OwnerIDVar)
	f.command(command, fields.Env, executable.GetExecutableResources().Env)
	s.defaults(&fields)
	return fields, f.err()
}

// defaults gives absent fields their meaning, and makes texts absent that say
// nothing.
func (s *ExecutionService) defaults(fields *state.ExecutionRequestCommon) {
	fields.Memory, fields.CPU = firstPositive(fields.Memory), firstPositive(fields.CPU)
	fields.Description = present(fields.Description)
	fields.IdempotenceKey = present(fields.IdempotenceKey)
	fields.ServiceAccount = present(fields.ServiceAccount)
	if present(fields.Tier) == nil {
		fields.Tier = &s.c.Config.EKS.TierDefault
	}
	if present(fields.Arch) == nil {
		fields.Arch = nil
	} else if *fields.Arch != archARM {
		fields.Arch = new(archAMD)
	}
}

// request checks what a client asks of a run.
func (f *faults) request(r state.ExecutionRequestCommon) {
	f.text("owner_id", r.OwnerID, maxName)
	f.text("cluster", r.ClusterName, 0)
	f.sizes(r.Memory, r.CPU, r.GPU, r.EphemeralStorage)
	f.number("active_deadline_seconds", r.ActiveDeadlineSeconds, 1, maxAmount)
	if r.NodeLifecycle != nil && !slices.Contains(state.NodeLifecycles, *r.NodeLifecycle) {
		f.addf("node_lifecycle must be one of %s, not %q", listed(state.NodeLifecycles), *r.NodeLifecycle)
	}
	f.optionalText("command", r.Command, 0)
	f.optionalText("description", r.Description, 0)
	f.optionalText("idempotence_key", r.IdempotenceKey, maxName)
	f.optionalText("arch", r.Arch, maxName)
	f.optionalText("service_account", r.ServiceAccount, maxName)
	f.optionalText("tier", r.Tier, maxName)
	f.env(r.Env)
	f.labels(r.Labels)
	f.spark(r.SparkExtension)
}

// labels checks label keys by the rules of Kubernetes, which would refuse the
// whole Job for one of them; values are made valid later.
func (f *faults) labels(labels state.Labels) {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if wrong := validation.IsQualifiedName(key); len(wrong) > 0 {
			f.addf("labels: %q is not a valid label key: %s", key, strings.Join(wrong, "; "))
		}
		f.text(fmt.Sprintf("labels[%q]", key), labels[key], 0)
	}
}

func (f *faults) spark(ext *state.SparkExtension) {
	if ext == nil {
		return
	}
	f.object("spark_extension", ext)
	if driver := ext.SparkSubmitJobDriver; driver != nil {
		f.number("spark_submit_job_driver.num_executors", driver.NumExecutors, 0, maxAmount)
		f.number("spark_submit_job_driver.executor_memory", driver.ExecutorMemory, 0, maxAmount)
	}
}

// engineOf is the engine that a request means, or what is wrong with it.
func engineOf(r state.ExecutionRequestCommon) (chosen, fault string) {
	asked := ""
	if r.Engine != nil {
		asked = *r.Engine
	}
	switch asked {
	case "", engineECS:
		if r.SparkExtension != nil {
			return state.EKSSparkEngine, ""
		}
		return state.EKSEngine, ""
	case state.EKSEngine:
		return state.EKSEngine, ""
	case state.EKSSparkEngine:
		if r.SparkExtension == nil {
			return "", "engine eks-spark needs a spark_extension"
		}
		return state.EKSSparkEngine, ""
	}
	return "", fmt.Sprintf("engine must be one of %s, not %q", listed(state.Engines), asked)
}

// finalCommand is what the run executes (ara.md section 1): the request's
// command; without one the executable's, or for a Spark run the canonical
// spark-submit line. nil is no command.
func finalCommand(executable runnable, fields state.ExecutionRequestCommon, req state.ExecutionRequest) (*string, error) {
	if command := present(fields.Command); command != nil {
		return command, nil
	}
	if *fields.Engine == state.EKSSparkEngine {
		return present(new(sparkSubmitLine(fields.SparkExtension))), nil
	}
	command, err := executable.GetExecutableCommand(req)
	if err != nil {
		return nil, err
	}
	return present(&command), nil
}

// sparkSubmitLine is the canonical form of what a Spark run submits, quoted
// for a shell; empty where there is no entry point. It leaves every --conf
// out: ARA changes those, and the identity of a run must not change with them.
func sparkSubmitLine(ext *state.SparkExtension) string {
	driver := ext.SparkSubmitJobDriver
	if driver == nil || driver.EntryPoint == nil || *driver.EntryPoint == "" {
		return ""
	}
	words := []string{"spark-submit"}
	if driver.Class != nil && *driver.Class != "" {
		words = append(words, "--class", *driver.Class)
	}
	for _, list := range []struct {
		flag  string
		files []string
	}{{"--py-files", driver.PyFiles}, {"--jars", driver.Jars}, {"--files", driver.Files}} {
		if len(list.files) > 0 {
			words = append(words, list.flag, strings.Join(list.files, ","))
		}
	}
	words = append(words, *driver.EntryPoint)
	return shellescape.QuoteCommand(append(words, driver.EntryPointArguments...))
}

// runEnv is a run's environment: what Flotilla says first, then what the
// request says, in its order. The definition's is merged in the container.
func (s *ExecutionService) runEnv(run state.Run, requested state.EnvList) state.EnvList {
	return append(state.EnvList{
		{Name: envServerMode, Value: s.c.Config.Mode},
		{Name: envRunID, Value: run.RunID},
		{Name: envRoleSession, Value: run.RunID},
		{Name: s.c.Config.OwnerIDVar, Value: run.User},
	}, requested...)
}

// withoutReserved drops the variables that Flotilla sets itself: old clients
// send a run's environment back when they run it again.
func withoutReserved(env state.EnvList, ownerVar string) state.EnvList {
	reserved := []string{envServerMode, envRunID, envRoleSession, ownerVar}
	return slices.DeleteFunc(slices.Clone(env), func(v state.EnvVar) bool { return slices.Contains(reserved, v.Name) })
}

// firstPositive is the first number that is given and above 0, nil where none
// is.
func firstPositive(numbers ...*int64) *int64 {
	for _, n := range numbers {
		if n != nil && *n > 0 {
			return n
		}
	}
	return nil
}

// definitionOf is the definition that an executable is, if it is one.
func definitionOf(executable state.Executable) (state.Definition, bool) {
	switch d := executable.(type) {
	case state.Definition:
		return d, true
	case *state.Definition:
		return *d, true
	}
	return state.Definition{}, false
}
