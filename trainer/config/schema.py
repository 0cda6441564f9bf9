"""The schema of all settings, and how a recipe, its base and overrides are merged.

A recipe is a YAML file. Its `base:` names another recipe to start from. `key=value` overrides are applied last.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import (
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from data_pipelines.errors import UserError
from data_pipelines.formatting import nearest_multiples
from data_pipelines.settings import DataSettings, Settings
from trainer.checkpoints.keep_rules import CheckpointSettings
from trainer.config.monitoring_settings import EvalSettings, MetricsSettings, NotifySettings
from trainer.config.overrides import Override, apply, parse_override, reset_settings
from trainer.config.parallel_settings import ParallelSettings
from trainer.config.problems import current_key, explain, old_names
from trainer.config.recipes import flat, merge, read_recipe
from trainer.config.slurm_settings import SlurmSettings
from trainer.engine.divergence_guard import GuardSettings
from trainer.engine.optimizers import OptimSettings
from trainer.methods import MethodSettings, available
from trainer.methods.all4one import All4OneSettings
from trainer.networks.backbones import BackboneSettings

Part = TypeVar("Part", bound=Settings)
_TOLD: set[str] = set()
"""Old setting names for which this process has already printed a notice."""


class RunSettings(Settings):
    """The run as a whole."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    name: str = Field("", pattern=r"^[\w.,=+-]*$")
    """Name of the run's folder. Empty: the name of the recipe."""
    folder: Path = Path("runs")
    """Folder that holds the run folders."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the weights, the sample order, the augmentations, dropout and what a method draws."""
    tags: tuple[str, ...] = ()
    """Tags of the run at Weights & Biases."""


class TrainSettings(Settings):
    """Length of training, batch sizes and precision."""

    first_names = {"accumulation": "grad_accum_steps"}

    epochs: int = Field(100, ge=1)
    """Passes over the training set."""
    max_steps: int = Field(0, ge=0)
    """Maximum number of optimizer steps of the whole run. The schedules of the learning rates and of the EMA momentum
    end there. 0: the epochs decide."""
    global_batch: int = Field(256, ge=2)
    """Images in one optimizer step, over all processes and accumulated micro-batches."""
    grad_accum_steps: int = Field(1, ge=1)
    """Micro-batches of one optimizer step. Losses are computed within each micro-batch."""
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    """Precision of matrix products and convolutions in the networks. Weights, losses and the queue stay fp32. On GPUs,
    fp32 convolutions use TF32 (10 bits of mantissa), which is the default of torch. With fp64, all of them are float64,
    at several times the cost. Use fp64 to compare runs without rounding differences."""
    deterministic: bool = False
    """On GPUs, use only algorithms that give the same bits each time. Only then does a resumed run end bitwise equal to
    an undisturbed one. Steps take longer, and an operation without such an algorithm ends the run with an error that
    names it. CPUs give the same bits with either value."""

    @field_validator("precision", mode="before")
    @classmethod
    def _no_fp16(cls, value: Any) -> Any:
        if value == "fp16":
            raise ValueError(
                "fp16 needs loss scaling, which is not supported. bf16 is as fast and has the range of fp32. It must "
                "be bf16, fp32 or fp64"
            )
        return value


class Config(Settings):
    """All settings of a run."""

    several_lines = frozenset({"description"})

    description: str = ""
    """One line for the list of recipes."""
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
    notify: NotifySettings = NotifySettings()
    slurm: SlurmSettings = SlurmSettings()

    @field_validator("method", mode="before")
    @classmethod
    def _method_by_name(cls, value: Any) -> Any:
        if isinstance(value, MethodSettings):
            return value
        name = value.get("name", "all4one") if isinstance(value, Mapping) else value
        methods = available()
        if not isinstance(name, str) or name not in methods:
            raise ValueError(f"there is no method {name!r}; available methods: {', '.join(sorted(methods))}")
        return methods[name].model_validate({"name": name} if isinstance(value, str) else value)

    @model_validator(mode="after")
    def _views_fit(self) -> "Config":
        if not self.method.num_views.takes(len(self.data.views)):
            raise ValueError(
                f"data.views must list {self.method.num_views} views for method {self.method.name}, "
                f"not {len(self.data.views)}"
            )
        return self

    @model_validator(mode="after")
    def _rounding_is_as_asked(self) -> "Config":
        if self.train.deterministic and self.parallel.cudnn_benchmark:
            raise ValueError(
                "train.deterministic=true needs parallel.cudnn_benchmark=false: a benchmark may choose other "
                "algorithms, with other rounding, each time the run starts"
            )
        if self.train.precision == "fp64":
            if self.parallel.zero_stage:
                raise ValueError(
                    "train.precision=fp64 needs parallel.zero_stage=0: DeepSpeed keeps its sharded weights in float32"
                )
            if self.parallel.gradient_dtype == "bf16":
                raise ValueError(
                    "train.precision=fp64 is for comparisons without rounding: it does not support "
                    "parallel.gradient_dtype=bf16"
                )
        return self

    @model_validator(mode="after")
    def _best_is_evaluated(self) -> "Config":
        best = self.checkpoint.keep_best
        if best and not best.startswith(("knn_", "online_val_top")):
            raise ValueError(
                "checkpoint.keep_best must be a metric of the evaluation during training: knn_online, knn_momentum "
                f"for a method with a momentum (EMA) encoder, online_val_top1 or online_val_top5, not {best!r}"
            )
        if best and not self.eval.every_epochs:
            raise ValueError(
                f"checkpoint.keep_best={best} needs evaluations during training: set eval.every_epochs above 0, or "
                "checkpoint.keep_best to nothing"
            )
        if best and self.data.validation is None:
            raise ValueError(
                f"checkpoint.keep_best={best} needs evaluations during training: set data.validation to a labeled "
                "dataset, or checkpoint.keep_best to nothing"
            )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> "Config":
        batch, parts = self.train.global_batch, self.train.grad_accum_steps
        if batch % parts:
            raise ValueError(
                f"train.global_batch ({batch}) must be a multiple of train.grad_accum_steps ({parts}); "
                f"nearest: {' and '.join(map(str, nearest_multiples(batch, parts)))}"
            )
        return self


def load_config(
    recipe: str | Path, overrides: Sequence[str] = (), defaults: Mapping[str, Any] | None = None
) -> Config:
    """Return the resolved configuration of a recipe with `key=value` overrides.

    Args:
        recipe: path of a recipe, or the name of a shipped recipe.
        overrides: settings that override the recipe.
        defaults: nested values that the recipe overrides.

    Raises:
        UserError: the configuration is not valid. The message lists all problems, each with the nearest valid name.
    """
    values = merge(defaults or {}, read_recipe(recipe))
    tell_old_names(values, Config)
    return override(parse(values, where=str(recipe)), overrides, where=str(recipe))


def override(config: Config, overrides: Sequence[str], where: str) -> Config:
    """Return the configuration with `key=value` overrides, and print which settings they reset.

    Raises:
        UserError: as for `load_config`.
    """
    if not overrides:
        return config
    parsed = [parse_override(assignment) for assignment in overrides]
    values = apply(dump(config), parsed)
    tell_old_names(values, Config)
    changed = parse(values, where=f"{where} with {' '.join(overrides)}")
    for reset in reset_settings(dump(config), dump(changed), given_settings(parsed, values)):
        if reset not in _TOLD:
            _TOLD.add(reset)
            print(f"notice: {reset}", file=sys.stderr)
    return changed


def given_settings(overrides: Iterable[Override], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that overrides give, by dotted key with current names.

    Args:
        overrides: the overrides.
        values: nested values of a configuration, which select the method.
    """
    return {current_key(key, Config, values): value for one in overrides for key, value in flat(one.nested())}


def tell_old_names(values: Mapping[str, Any], model: type[Settings]) -> None:
    """Print one line that lists the old setting names in use. Each name is printed once per process.

    Args:
        values: nested values.
        model: the settings that they are for.
    """
    found = [(old, new) for old, new in old_names(values, values, model) if old not in _TOLD]
    _TOLD.update(old for old, _ in found)
    if found:
        said = ", ".join(f"{old} is now {new}" for old, new in found)
        print(f"notice: settings have new names (the old ones still work): {said}", file=sys.stderr)


def data_settings(recipe: str | Path, overrides: Sequence[str] = ()) -> DataSettings:
    """Return the data settings of a recipe with `key=value` overrides, without checking the number of views.

    Raises:
        UserError: as for `load_config`.
    """
    values = read_recipe(recipe)
    values["data"] = _validated(DataSettings, values.get("data", {}), str(recipe), "data").model_dump(
        mode="json"
    )
    parsed = [parse_override(assignment) for assignment in overrides]
    if other := [one.key for one in parsed if one.path[0] != "data"]:
        raise UserError(f"{other[0]!r} is not a data setting", fix="use keys that begin with `data.`")
    values = apply(values, parsed)
    return _validated(DataSettings, values["data"], " ".join([str(recipe), *overrides]), "data")


def parse(values: Mapping[str, Any], where: str) -> Config:
    """Validate nested values. `where` names their source in error messages."""
    return _validated(Config, values, where)


def _validated(model: type[Part], values: Mapping[str, Any], where: str, *prefix: str) -> Part:
    """Validate the values of the configuration, or of the part of it at `prefix`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        whole: Mapping[str, Any] = {prefix[0]: values} if prefix else values
        problems = sorted(
            {explain({**e, "loc": (*prefix, *e["loc"])}, whole, Config) for e in error.errors()}
        )
        raise UserError(
            "the configuration is not valid:\n" + "\n".join(f"  - {p}" for p in problems),
            where=where,
            fix="`all4one config show RECIPE` prints every key with its value",
        ) from None


def dump(config: Config) -> dict[str, Any]:
    """Plain nested values, as YAML and JSON take them; `parse` is the inverse."""
    return config.model_dump(mode="json")
