"""Settings: one object for a laptop and for production; only the URLs differ."""

from __future__ import annotations

import os
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

#: The file in the home folder where `orchestrator up` leaves the addresses of what it started.
ENV_FILE = "orchestrator.env"


def home() -> Path:
    """The folder of an embedded instance: `ORCHESTRATOR_HOME`, else `.orchestrator` here."""
    return Path(os.environ.get("ORCHESTRATOR_HOME", ".orchestrator")).absolute()


class KubernetesGpu(BaseModel):
    """How a cluster knows a type of GPU: the resource that its nodes offer, and labels of the nodes that have it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resource: str = "nvidia.com/gpu"
    node_selector: dict[str, str] = Field(default_factory=dict)


class Settings(BaseSettings):
    """Read from `ORCHESTRATOR_*` variables, then from `orchestrator.env` in the home folder."""

    model_config = SettingsConfigDict(env_prefix="ORCHESTRATOR_", extra="ignore")

    home: Path = Field(default_factory=home)
    #: SQLAlchemy URL; empty means a SQLite file in the home folder.
    database_url: SecretStr = SecretStr("")
    #: Connections that one process may hold, beside one for the heartbeat.
    database_pool_size: int = Field(5, ge=1)
    broker_url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), min_length=1)
    #: The Redis in which workers share models' limits; empty means the broker, where that is a Redis.
    coordination_url: SecretStr = SecretStr("")
    #: Where blobs live: `file:///folder` or `s3://bucket/prefix`; empty means a folder in the home.
    blob_url: str = ""
    s3_endpoint: str | None = None
    s3_region: str = "us-east-1"
    s3_access_key_id: SecretStr | None = None
    s3_secret_access_key: SecretStr | None = None
    #: Signs URLs of the local blob folder; empty means a key file in the home folder.
    signing_key: SecretStr = SecretStr("")
    #: A claim lasts this long unless renewed; the heartbeat comes at a third of it.
    lease_seconds: float = Field(30, gt=0)
    #: A published unit that nobody claimed for this long is published again, if its queue has fewer messages.
    republish_seconds: float = Field(60, gt=0)
    #: The same, once the broker reports its queue to be empty.
    republish_empty_seconds: float = Field(5, gt=0)
    #: Units of one queue that may wait in the broker at a time.
    dispatch_window: int = Field(32, ge=1)
    #: Seconds between beat's dispatch ticks, and between its reconcile ticks.
    dispatch_interval: float = Field(1, gt=0)
    reconcile_interval: float = Field(5, gt=0)
    #: Seconds between two looks for schedules that are due.
    schedule_interval: float = Field(1, gt=0)
    #: Days for which it is told what became of an instant at which a schedule was due.
    schedule_history_days: float = Field(90, ge=1, le=36_600)
    #: Seconds between two looks for deleted inferences, and blobs, that nobody holds any more.
    purge_interval: float = Field(60, gt=0)
    #: Hosts that may be called although their address is link-local or a metadata service.
    endpoint_allow: frozenset[str] = frozenset()
    #: Who is said to have created runs; empty means the login name.
    user: str = ""
    #: What launches training runs.
    training_runtime: Literal["local", "kubernetes"] = "local"
    #: Seconds between two looks at the trainers that run.
    training_interval: float = Field(1, gt=0)
    #: Where local runs have their folders; None means a folder in the home.
    training_folder: Path | None = None
    #: What local runs may demand together, as Kubernetes quantities; empty means what the host has.
    training_cpu: str = ""
    training_memory: str = ""
    #: A trainer that was silent for so many seconds is lost; it shows itself at a third of it.
    training_heartbeat_seconds: float = Field(30, gt=0)
    #: How often a run is launched again by itself because its trainer was lost.
    training_restarts: int = Field(3, ge=0)
    #: The kubeconfig file of the cluster in which runs are Kubernetes jobs, and a context in it; by default the
    #: cluster around this pod, else what kubectl would use.
    kubernetes_config: Path | None = None
    kubernetes_context: str = ""
    #: What the cluster is called here: the same for every worker that reaches it.
    kubernetes_cluster: str = "kubernetes"
    kubernetes_namespace: str = "default"
    #: Whom training pods act as.
    kubernetes_service_account: str = "orchestrator-training"
    #: The project's own image, for the sidecar that reports for a trainer.
    kubernetes_sidecar_image: str = ""
    #: The Secret with the sidecar's environment: `ORCHESTRATOR_DATABASE_URL`, `ORCHESTRATOR_BLOB_URL` and so on.
    kubernetes_secret: str = "orchestrator-training"  # noqa: S105  the name of an object, not a password
    #: Further labels of training jobs and pods.
    kubernetes_labels: dict[str, str] = Field(default_factory=dict)
    #: Types of GPUs; one that is not among them is taken for `nvidia.com/gpu` on any node.
    kubernetes_gpus: dict[str, KubernetesGpu] = Field(default_factory=dict)
    #: Fields of the pod's spec that replace ours, such as `tolerations` or `imagePullSecrets`.
    kubernetes_pod_spec: dict[str, Any] = Field(default_factory=dict)
    #: Days after which ended jobs are removed from the cluster.
    kubernetes_keep_days: float = Field(7, gt=0)
    #: Where a worker, or beat, serves `/metrics` and `/livez`; port 0 for nowhere.
    metrics_port: int = Field(0, ge=0, le=65535)
    metrics_address: str = "127.0.0.1"
    #: A process that could not do its work for so many seconds is unhealthy.
    liveness_seconds: float = Field(45, gt=0)
    log_format: Literal["console", "json"] = "console"
    log_level: str = "INFO"

    @property
    def sqlalchemy_url(self) -> str:
        """The database URL, with the embedded default filled in."""
        return self.database_url.get_secret_value() or f"sqlite:///{self.home / 'orchestrator.db'}"

    @property
    def coordination(self) -> str | None:
        """The URL of the Redis in which limits are shared; None where there is none."""
        named = self.coordination_url.get_secret_value()
        broker = self.broker_url.get_secret_value().split(";")[0]
        return named or (broker if broker.startswith(("redis://", "rediss://")) else None)

    @field_validator("coordination_url")
    @classmethod
    def _is_redis(cls, url: SecretStr) -> SecretStr:
        if url.get_secret_value() and not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("limits are shared in a Redis: give a redis://, rediss:// or unix:// URL")
        return url

    @property
    def storage_url(self) -> str:
        """The blob URL, with the embedded default filled in."""
        return self.blob_url or (self.home / "blobs").as_uri()

    @property
    def launches_folder(self) -> Path:
        """The folder of local runs, with the embedded default filled in."""
        return (self.training_folder or self.home / "training").absolute()

    @property
    def lease(self) -> timedelta:
        """How long a claim lasts unless renewed."""
        return timedelta(seconds=self.lease_seconds)


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once; `settings.cache_clear()` reads them anew."""
    return Settings(_env_file=home() / ENV_FILE)
