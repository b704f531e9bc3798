package state

import (
	"database/sql/driver"
	"encoding/json"
)

// SparkConf is one name and value of a Spark or Hive configuration.
type SparkConf struct {
	Name  *string `json:"name,omitempty"`
	Value *string `json:"value,omitempty"`
}

// SparkSubmitJobDriver is what spark-submit is to run. Memory is in MB.
type SparkSubmitJobDriver struct {
	EntryPoint          *string     `json:"entry_point,omitempty"`
	EntryPointArguments []string    `json:"entry_point_arguments,omitempty"`
	SparkSubmitConf     []SparkConf `json:"spark_submit_conf,omitempty"`
	Files               []string    `json:"files,omitempty"`
	PyFiles             []string    `json:"py_files,omitempty"`
	Jars                []string    `json:"jars,omitempty"`
	Class               *string     `json:"class,omitempty"`
	WorkingDir          *string     `json:"working_dir,omitempty"`
	NumExecutors        *int64      `json:"num_executors,omitempty"`
	ExecutorMemory      *int64      `json:"executor_memory,omitempty"`

	extra map[string]json.RawMessage
}

// UnmarshalJSON keeps the members that Flotilla does not know.
func (d *SparkSubmitJobDriver) UnmarshalJSON(raw []byte) (err error) {
	type plain SparkSubmitJobDriver
	*d = SparkSubmitJobDriver{}
	d.extra, err = unmarshalKeeping(raw, (*plain)(d))
	return err
}

// MarshalJSON writes the members that Flotilla does not know back.
func (d SparkSubmitJobDriver) MarshalJSON() ([]byte, error) {
	type plain SparkSubmitJobDriver
	return marshalKeeping(plain(d), d.extra)
}

// SparkExtension is what only a Spark run has (rest-api.md, Run).
type SparkExtension struct {
	SparkSubmitJobDriver *SparkSubmitJobDriver `json:"spark_submit_job_driver,omitempty"`
	ApplicationConf      []SparkConf           `json:"application_conf,omitempty"`
	HiveConf             []SparkConf           `json:"hive_conf,omitempty"`
	EMRJobID             *string               `json:"emr_job_id,omitempty"`
	SparkAppID           *string               `json:"spark_app_id,omitempty"`
	EMRJobManifest       *string               `json:"emr_job_manifest,omitempty"`
	HistoryURI           *string               `json:"history_uri,omitempty"`
	MetricsURI           *string               `json:"metrics_uri,omitempty"`
	VirtualClusterID     *string               `json:"virtual_cluster_id,omitempty"`
	EMRReleaseLabel      *string               `json:"emr_release_label,omitempty"`
	ExecutorInitCommand  *string               `json:"executor_init_command,omitempty"`
	DriverInitCommand    *string               `json:"driver_init_command,omitempty"`
	SparkServerURI       *string               `json:"spark_server_uri,omitempty"`
	AppURI               *string               `json:"app_uri,omitempty"`
	Executors            []string              `json:"executors,omitempty"`
	ExecutorOOM          *bool                 `json:"executor_oom,omitempty"`
	DriverOOM            *bool                 `json:"driver_oom,omitempty"`

	extra map[string]json.RawMessage
}

// UnmarshalJSON keeps the members that Flotilla does not know.
func (s *SparkExtension) UnmarshalJSON(raw []byte) (err error) {
	type plain SparkExtension
	*s = SparkExtension{}
	s.extra, err = unmarshalKeeping(raw, (*plain)(s))
	return err
}

// MarshalJSON writes the members that Flotilla does not know back.
func (s SparkExtension) MarshalJSON() ([]byte, error) {
	type plain SparkExtension
	return marshalKeeping(plain(s), s.extra)
}

// Value implements driver.Valuer.
func (s *SparkExtension) Value() (driver.Value, error) {
	if s == nil {
		return nil, nil
	}
	return valueJSON(s)
}
