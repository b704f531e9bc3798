package config

import "time"

// When a run's log is followed while nobody reads it.
const (
	LogFollowOnRead = "on-read"
	LogFollowAlways = "always"
)

// EKS is what Kubernetes clusters of any make are driven by; the name is that of the engine on runs.
type EKS struct {
	Clusters          []string `key:"eks_clusters"`
	ClusterDefault    string   `key:"eks_cluster_default"`
	GPUClusterDefault string   `key:"eks_gpu_cluster_default"`
	TierDefault       string   `key:"eks_tier_default" default:"Tier4" required:"true"`

	// KubeconfigBasepath is the folder that holds one kubeconfig per cluster, named like the cluster.
	KubeconfigBasepath string `key:"eks_kubeconfig_basepath"`
	// Kubeconfig is $KUBECONFIG: files, separated as in PATH, whose contexts name clusters.
	Kubeconfig string
	// InClusterName is the name of the cluster that this server itself runs in; empty where it runs in none.
	InClusterName string `key:"eks_in_cluster_name"`

	SchedulerName         string        `key:"eks_scheduler_name" default:"default-scheduler"`
	JobNamespace          string        `key:"eks_job_namespace" default:"default" required:"true"`
	JobTTL                time.Duration `key:"eks_job_ttl" default:"3600" min:"0s" max:"8760h"`
	DefaultServiceAccount string        `key:"eks_default_service_account"`

	SpotOverride bool `key:"eks_spot_override" default:"false"`
	// SpotReattemptOverride is the share (0 to 1) of multi-attempt spot runs from which spot becomes on-demand.
	SpotReattemptOverride float64 `key:"eks_spot_reattempt_override" default:"0.05" min:"0" max:"1"`
	SpotThresholdMinutes  int     `key:"eks_spot_threshold_minutes" default:"30" min:"0" max:"525600"`

	MetricsServerURI     string        `key:"eks_metrics_server_uri"`
	LakekeeperSecretName string        `key:"eks_lakekeeper_secret_name"`
	MaxPodEvents         int           `key:"eks_max_pod_events" default:"20" min:"0" max:"1000"`
	ImagePullPolicy      string        `key:"eks_image_pull_policy" default:"Always" oneof:"Always,IfNotPresent,Never"`
	ImagePullDeadline    time.Duration `key:"image_pull_deadline" default:"10m" min:"1s" max:"24h"`
	TerminateGrace       time.Duration `key:"terminate_grace_seconds" default:"300" min:"0s" max:"24h"`
	AllowDockerSocket    bool          `key:"eks_allow_docker_socket" default:"false"`
	// QPS and Burst are the client-side limit of API requests per cluster; QPS 0 means none of ours.
	QPS   float64 `key:"eks_client_qps" default:"0" min:"0" max:"1000000"`
	Burst int     `key:"eks_client_burst" default:"0" min:"0" max:"1000000"`

	ManifestS3Region  string `key:"eks_manifest_storage_options_region"`
	ManifestS3Bucket  string `key:"eks_manifest_storage_options_s3_bucket_name"`
	ManifestS3RootDir string `key:"eks_manifest_storage_options_s3_bucket_root_dir"`

	LogNamespace string `key:"eks_log_namespace"`
	LogS3Bucket  string `key:"eks_log_driver_options_s3_bucket_name"`
	LogS3RootDir string `key:"eks_log_driver_options_s3_bucket_root_dir"`
	// LogRetentionDays is for the file archive; 0 keeps all.
	LogRetentionDays int    `key:"eks_log_retention_days" default:"0" min:"0" max:"36500"`
	LogFollow        string `key:"eks_log_follow" default:"on-read" oneof:"on-read,always"`
}
