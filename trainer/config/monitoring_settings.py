"""Settings of evaluations during training, of the metrics that a run writes, and of messages to people."""

import re
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, field_validator

from data_pipelines.settings import Settings
from data_pipelines.urls import Place, Url


class EvalSettings(Settings):
    """Evaluation during training."""

    every_epochs: int = Field(10, ge=0)
    """Epochs between kNN evaluations. 0: none. The untrained and the final backbone are always evaluated."""
    knn_k: int = Field(20, ge=1)
    """Number of neighbors that vote in kNN."""
    knn_temperature: float = Field(0.07, gt=0)
    """Temperature of the kNN votes."""
    batch: int = Field(256, ge=1)
    """Batch size of feature extraction, per process."""


class MetricsSettings(Settings):
    """Which metrics are written, and how often."""

    log_every: int = Field(10, ge=1)
    """Steps between records in metrics.jsonl and the other metric files."""
    health_every: int = Field(100, ge=0)
    """Steps between records with all diagnostics: effective rank, neighbors, gradient fractions of the losses. 0:
    none."""
    tensorboard: bool = True
    """Whether to write TensorBoard files."""
    csv: bool = False
    """Whether to write metrics.csv, a table for spreadsheets."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Whether to log to Weights & Biases: live (`online`), or to files for a later `wandb sync` (`offline`)."""
    wandb_project: str = Field("all4one", min_length=1)
    """Weights & Biases project of the run."""
    mlflow: Place | None = None
    """Where to log to MLflow: a folder, the URL of a tracking server (`http://HOST:5000`), or a database
    (`sqlite:///FILE`). None: nowhere."""
    mlflow_experiment: str = Field("all4one", min_length=1)
    """MLflow experiment of the run."""
    trackio: Place | None = None
    """Where to log to Trackio: a folder, the URL of a Trackio server (`http://HOST:7860`), or a Space on the Hugging
    Face hub (`hf://spaces/ORG/NAME`). None: nowhere."""
    trackio_project: str = Field("all4one", pattern=r"^[\w.-]+$")
    """Trackio project of the run."""

    @field_validator("trackio")
    @classmethod
    def _is_served(cls, place: Path | Url | None) -> Path | Url | None:
        if isinstance(place, Url) and not re.match(r"https?://|hf://spaces/[^/]+/[^/]+$", place):
            raise ValueError("must be a folder, http://HOST:7860 or hf://spaces/ORG/NAME")
        return place


NotifyEvent = Literal["finished", "failed", "collapsed", "requeues_used_up"]
"""What people may be told of a run."""


class NotifySettings(Settings):
    """Messages to people about a run, by mail, chat or webhook."""

    to: tuple[str, ...] = ()
    """Who is told: tags of services in Apprise's file (`[mail, chat]`). Empty: nobody."""
    on: tuple[NotifyEvent, ...] = get_args(NotifyEvent)
    """What is told: the run has `finished`, it has `failed`, its embeddings have nearly `collapsed`, or SLURM has
    restarted its job too often (`requeues_used_up`)."""
    file: Path | None = None
    """Apprise's file of services, which also holds their passwords. None: `apprise.yml` in the folder `apprise` of the
    user's configuration (`$XDG_CONFIG_HOME`, or `~/.config`)."""
