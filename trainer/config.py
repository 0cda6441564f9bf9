"""The one schema of every setting, and how a recipe, its base and overrides become one.

A recipe is YAML. Its `base:` names another recipe that it starts from; `key=value` overrides come last.
"""

import difflib
import hashlib
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from data_pipelines.errors import UserError
from data_pipelines.settings import DataSettings, Settings
from trainer.backbones import BackboneSettings
from trainer.checkpoint import CheckpointSettings
from trainer.guard import GuardSettings
from trainer.methods import MethodSettings, available
from trainer.methods.all4one import All4OneSettings
from trainer.optim import OptimSettings
from trainer.parallel_settings import ParallelSettings
from trainer.recipes import merge, read_recipe
from trainer.slurm_settings import SlurmSettings

Part = TypeVar("Part", bound=Settings)


class RunSettings(Settings):
    """The run as a whole."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    name: str = Field("", pattern=r"^[\w.,=+-]*$")
    """Name of the run's folder; empty: the recipe's name."""
    folder: Path = Path("runs")
    """Folder that holds the run folders."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the weights, the order of samples, the views and dropout."""
    tags: tuple[str, ...] = ()
    """Words to find the run by, for TensorBoard and Weights & Biases."""


class TrainSettings(Settings):
    """How long and in what batches."""

    epochs: int = Field(100, ge=1)
    """Passes over the training set."""
    max_steps: int = Field(0, ge=0)
    """Optimiser steps of the whole run, where fewer than those of all epochs; learning rates and the averaged copy's
    momentum reach their end there. 0: no such limit."""
    global_batch: int = Field(256, ge=2)
    """Images in one optimiser step, over all processes and accumulation."""
    accumulation: int = Field(1, ge=1)
    """Micro-batches of one optimiser step; each contrasts within itself."""
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    """Precision of the networks' matrix products and convolutions; weights, losses and the queue stay fp32. With
    fp64 all of them are float64, at several times the cost: to compare runs without rounding in the way."""

    @field_validator("precision", mode="before")
    @classmethod
    def _no_fp16(cls, value: Any) -> Any:
        if value == "fp16":
            raise ValueError(
                "in fp16 gradients below 6e-8 vanish unless losses are scaled by trial, and the steps of too large a "
                "scale are lost, on GPUs too; bf16 is as fast with the range of fp32, and fp32 runs on every device: "
                "it must be one of these"
            )
        return value


class EvalSettings(Settings):
    """Evaluation during training."""

    every_epochs: int = Field(10, ge=0)
    """Epochs between kNN evaluations; 0: none. The untrained and the final backbone are judged in any other case."""
    knn_k: int = Field(20, ge=1)
    """Neighbours that vote."""
    knn_temperature: float = Field(0.07, gt=0)
    """Temperature of the votes."""
    batch: int = Field(256, ge=1)
    """Images in one batch of feature extraction, per process."""


class MetricsSettings(Settings):
    """What is written down, and how often."""

    log_every: int = Field(10, ge=1)
    """Steps between records in metrics.jsonl and in all that is written beside it."""
    health_every: int = Field(100, ge=0)
    """Steps between records that have all health values: effective rank, neighbours, shares of the losses. 0: none."""
    tensorboard: bool = True
    """Whether TensorBoard files are written."""
    csv: bool = False
    """Whether metrics.csv, a table for spreadsheets, is written."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Whether values go to Weights & Biases: at once (`online`), or to files that `wandb sync` sends later."""
    wandb_project: str = Field("all4one", min_length=1)
    """Project of the run at Weights & Biases."""

    @field_validator("wandb", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # as YAML reads it


class Config(Settings):
    """Every setting of a run."""

    description: str = ""
    """One line that the list of recipes shows."""
    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    backbone: BackboneSettings = BackboneSettings()
    method: SerializeAsAny[MethodSettings] = All4OneSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    parallel: ParallelSettings = ParallelSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    eval: EvalSettings = EvalSettings()
    metrics: MetricsSettings = MetricsSettings()
    guard: GuardSettings = GuardSettings()
    slurm: SlurmSettings = SlurmSettings()

    @field_validator("method", mode="before")
    @classmethod
    def _method_by_name(cls, value: Any) -> Any:
        if isinstance(value, MethodSettings):
            return value
        name = value.get("name", "all4one") if isinstance(value, Mapping) else value
        methods = available()
        if name not in methods:
            raise ValueError(f"there is no method {name!r}; there are {', '.join(sorted(methods))}")
        return methods[name].model_validate(value)

    @model_validator(mode="after")
    def _views_fit(self) -> "Config":
        if not self.method.num_views.takes(len(self.data.views)):
            raise ValueError(
                f"data.views must list {self.method.num_views} views for method {self.method.name}, "
                f"not {len(self.data.views)}"
            )
        return self

    @model_validator(mode="after")
    def _float64_is_whole(self) -> "Config":
        if self.train.precision == "fp64":
            if self.parallel.zero:
                raise ValueError(
                    "train.precision=fp64 needs parallel.zero=0: DeepSpeed keeps the weights of its shares in float32"
                )
            if self.parallel.gradient_dtype == "bf16":
                raise ValueError(
                    "train.precision=fp64 is for comparisons without rounding: it takes no "
                    "parallel.gradient_dtype=bf16"
                )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> "Config":
        batch, parts = self.train.global_batch, self.train.accumulation
        if batch % parts:
            raise ValueError(
                f"train.global_batch ({batch}) must divide by train.accumulation ({parts}); "
                f"nearest: {batch // parts * parts or parts} and {(batch // parts + 1) * parts}"
            )
        return self


MAY_CHANGE_ON_RESUME = (
    "description", "run.name", "run.folder", "run.tags", "data.train", "data.validation", "data.cache",
    "data.cache_bytes", "data.cache_ahead", "data.read_ahead", "data.allow_pipe", "data.threads", "data.prefetch",
    "data.max_bad_fraction", "data.eval_resize", "parallel.threads", "parallel.zero", "parallel.compile",
    "backbone.recompute", "checkpoint", "eval", "metrics", "guard", "slurm",
)  # fmt: skip
"""Settings that do not change what is learned, but for `guard`, which says what to do with broken steps. All others
must be the same on resume; the sets that `data.train` and `data.validation` name are compared by content."""

CAME_LATER = [
    ("backbone.init", None),
    ("backbone.init_partial", False),
    ("method.symmetric", True),
    ("method.queue_views", "first"),
]
"""Settings that the first checkpoints knew nothing of, with the values that these were made with."""


def load_config(
    recipe: str | Path, overrides: Sequence[str] = (), defaults: Mapping[str, Any] | None = None
) -> Config:
    """The resolved configuration of a recipe (a path, or a shipped recipe's name) with `key=value` overrides.

    Args:
        recipe: what to start from.
        overrides: settings over the recipe's.
        defaults: nested values under the recipe's.

    Raises:
        UserError: everything that is wrong with it, at once, each with the nearest valid name where one is close.
    """
    values = merge(defaults or {}, read_recipe(recipe))
    return override(parse(values, where=str(recipe)), overrides, where=str(recipe))


def override(config: Config, overrides: Sequence[str], where: str) -> Config:
    """A configuration with `key=value` overrides; those that name another component come first.

    Raises:
        UserError: as for `load_config`.
    """
    if not overrides:
        return config
    values = dump(config)
    for assignment in sorted(overrides, key=lambda o: not o.partition("=")[0].endswith(".name")):
        set_value(values, assignment)
    return parse(values, where=f"{where} with {' '.join(overrides)}")


def data_settings(recipe: str | Path, overrides: Sequence[str] = ()) -> DataSettings:
    """The data part of a recipe with `key=value` overrides, whether or not its method takes as many views.

    Raises:
        UserError: as for `load_config`.
    """
    values = read_recipe(recipe)
    values["data"] = _validated(DataSettings, values.get("data", {}), str(recipe), "data").model_dump(
        mode="json"
    )
    for assignment in overrides:
        if not assignment.startswith("data."):
            raise UserError(
                f"{assignment!r} is no setting of the data", fix="give keys that begin with data."
            )
        set_value(values, assignment)
    return _validated(DataSettings, values["data"], " ".join([str(recipe), *overrides]), "data")


def parse(values: Mapping[str, Any], where: str) -> Config:
    """Validate nested values; `where` names their source in errors."""
    return _validated(Config, values, where)


def _validated(model: type[Part], values: Mapping[str, Any], where: str, *prefix: str) -> Part:
    """Validated values of the configuration, or of the part of it that `prefix` names."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        whole: Mapping[str, Any] = {prefix[0]: values} if prefix else values
        problems = sorted({_explain({**e, "loc": (*prefix, *e["loc"])}, whole) for e in error.errors()})
        raise UserError(
            "the configuration is not valid:\n" + "\n".join(f"  - {p}" for p in problems),
            where=where,
            fix="`all4one config show RECIPE` prints every key with its value",
        ) from None


def dump(config: Config) -> dict[str, Any]:
    """Plain nested values, as YAML and JSON take them; `parse` is the inverse."""
    return config.model_dump(mode="json")


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def meaning(config: Config) -> dict[str, Any]:
    """The settings that decide what is learned, by dotted key."""
    free = tuple(f"{key}." for key in MAY_CHANGE_ON_RESUME)
    return {key: value for key, value in flat(dump(config)) if not f"{key}.".startswith(free)}


def fingerprint(config: Config) -> str:
    """Hash of the settings that decide what is learned.

    A setting that came later counts where it is not what all did before it, so that older checkpoints stay of use.
    """
    values = {key: value for key, value in meaning(config).items() if (key, value) not in CAME_LATER}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def refuse_changed_meaning(before: Config, after: Config) -> None:
    """Raise a UserError with the differences where a resumed run would learn something else."""
    old, new = meaning(before), meaning(after)
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if changed:
        lines = "\n".join(f"  {key}: {old.get(key)} -> {new.get(key)}" for key in changed)
        raise UserError(
            f"these settings would change what the run learns:\n{lines}",
            fix="resume without them, or start a new run with `all4one train`",
        )


def set_value(values: dict[str, Any], assignment: str) -> None:
    """Set one `key=value` in nested values; positions in lists count from 0 (`data.views.0.size=32`).

    A component that is named anew (`optim.name=adamw`) starts from its own defaults.
    """
    key, separator, text = assignment.partition("=")
    if not separator or not key:
        raise UserError(f"{assignment!r} is not of the form key=value", fix="for example optim.lr=0.5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"the value of {assignment!r} is not YAML: {error}") from None
    if isinstance(value, str):
        value = _number(value)
    *parents, leaf = key.split(".")
    place: Any = values
    for parent in parents:
        place = _child(place, parent, key)
    if isinstance(place, list):
        place[_position(place, leaf, key)] = value
        return
    if (
        parents in (["method"], ["optim"], ["backbone"])
        and leaf == "name"
        and place.get("name", value) != value
    ):
        place.clear()
    place[leaf] = value


def _child(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        return place[_position(place, part, key)]
    if not isinstance(place.get(part), dict | list):
        place[part] = {}
    return place[part]


def _position(items: list[Any], part: str, key: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    raise UserError(f"{key}: {part!r} is not a position in a list of {len(items)}", fix="count from 0")


def _number(text: str) -> float | str:
    """YAML 1.1 takes 1e-3 for a string."""
    try:
        return float(text)
    except ValueError:
        return text


def _explain(error: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(path) or "configuration"
    if error["type"] == "extra_forbidden":
        siblings = [*_fields(path[:-1], values)]
        near = difflib.get_close_matches(path[-1], siblings, n=1, cutoff=0.5)
        elsewhere = [k for k in _all_keys(values) if k.rsplit(".")[-1] == path[-1]]
        hint = ".".join([*path[:-1], near[0]]) if near else elsewhere[0] if elsewhere else ""
        return f"{key}: there is no such key" + (
            f"; did you mean {hint}?" if hint else f"; there are {', '.join(siblings)}"
        )
    message = error["msg"].removeprefix("Value error, ")
    shown = error.get("input")
    return f"{key}: {message}" + (f", not {shown!r}" if isinstance(shown, str | int | float | bool) else "")


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (tuple, typing.Union, types.UnionType, typing.Annotated):
        return next((m for a in typing.get_args(annotation) if (m := _model_of(a))), None)
    return None


def _fields(path: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the model at a dotted path, those of the method being the ones of the method that `values` names."""
    model: type[BaseModel] | None = Config
    for part in path:
        if part.isdigit() or model is None:
            continue
        field = model.model_fields.get(part)
        model = _model_of(field.annotation) if field is not None else None
        if model is MethodSettings:
            model = available().get(values.get("method", {}).get("name", "all4one"))
    return dict(model.model_fields) if model is not None else {}


def _all_keys(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    for name, field in _fields(path, values).items():
        yield ".".join([*path, name])
        if len(path) < 3 and (_model_of(field.annotation) is not None):
            yield from _all_keys(values, (*path, name))
