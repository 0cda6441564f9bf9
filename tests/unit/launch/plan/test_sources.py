"""Which number of a plan counts: that of an option, of an earlier run, of the recipe, or an estimate."""

import pytest

from data_pipelines.errors import UserError
from launch.plan.estimates import ESTIMATES
from launch.plan.sources import collect, survivors_save
from trainer.config.schema import load_config

RECIPE = "imagenet_resnet50"


def test_options_come_before_estimates_and_the_recipe_tells_the_rest() -> None:
    config = load_config(RECIPE, ["checkpoint.every_steps=700", "slurm.time=10h", "train.max_steps=9000"])
    found, sources = collect(config, {"nodes": 8, "step_seconds": 0.4}, None)
    assert (found.nodes, found.step_seconds, found.every_steps, found.steps) == (8, 0.4, 700, 9000)
    assert found.time_limit_seconds == 36_000 - 120
    assert (sources["step_seconds"].source, sources["step_seconds"].is_estimate) == ("--step-time", False)
    assert sources["mtbf_seconds"].is_estimate
    assert sources["mtbf_seconds"].source == ESTIMATES["mtbf_seconds"].source
    assert sources["every_steps"].source == "checkpoint.every_steps"


def test_without_the_set_an_epoch_is_an_estimate_and_so_is_what_counts_in_epochs() -> None:
    config = load_config(RECIPE, ["train.global_batch=1000", "train.epochs=2", "checkpoint.every_epochs=0.5"])
    found, sources = collect(config, {}, None)
    assert (found.steps, found.every_steps) == (2 * 1281, 640)
    assert sources["steps"].is_estimate
    assert sources["every_steps"].is_estimate


def test_minutes_between_checkpoints_bound_their_interval() -> None:
    config = load_config(RECIPE, ["checkpoint.every_steps=700", "checkpoint.every_minutes=2"])
    assert collect(config, {"step_seconds": 1.0}, None)[0].every_steps == 120
    assert collect(config, {"step_seconds": 0.1}, None)[0].every_steps == 700


@pytest.mark.parametrize(
    ("settings", "saves"),
    [
        ([], True),
        (["parallel.zero_stage=1"], True),
        (["parallel.zero_stage=1", "checkpoint.replicate_every=0"], False),
        (["checkpoint.replicate_every=0"], True),
        (["slurm.gpus_per_node=8"], True),
        (["parallel.zero_stage=2", "slurm.gpus_per_node=8"], True),
        (["parallel.zero_stage=2", "slurm.gpus_per_node=8", "checkpoint.replicate_every=0"], False),
    ],
)
def test_survivors_save_if_they_have_the_whole_state_or_copies(settings: list[str], saves: bool) -> None:
    assert survivors_save(load_config(RECIPE, settings)) is saves


def test_copies_for_neighbors_count_where_the_state_is_sharded() -> None:
    sharded = ["parallel.zero_stage=1", "checkpoint.replicate_every=40"]
    found, sources = collect(load_config(RECIPE, sharded), {"save_seconds": 2.0}, None)
    assert (found.copies_every, sources["copies_every"].source) == (40, "checkpoint.replicate_every")
    assert found.copy_seconds == 2.0 / 40
    found, sources = collect(load_config(RECIPE, ["checkpoint.replicate_every=40"]), {}, None)
    assert (found.copies_every, found.copy_seconds) == (0, 0)
    assert "copies_every" not in sources


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        # The batch of 4,096 images divides by 8, 16, 32 and 64 ranks.
        (["slurm.shrink=true"], (1, 2, 4)),
        ([], ()),
        (["method.transformer_dropout=0"], (1, 2, 4)),
        (["method.transformer_dropout=0", "parallel.batch_norm=rank"], ()),
        (["slurm.shrink=false", "method.transformer_dropout=0"], ()),
        (["slurm.shrink=true", "slurm.recovery=requeue"], ()),
        (["slurm.shrink=true", "train.global_batch=4032"], (1, 2, 3, 4, 6, 7)),
    ],
)
def test_a_run_shrinks_where_its_batch_divides_and_its_loss_allows_it(
    settings: list[str], counts: tuple[int, ...]
) -> None:
    config = load_config(RECIPE, ["slurm.gpus_per_node=8", *settings])
    assert collect(config, {"nodes": 8}, None)[0].shrinks_to == counts


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("nodes", 0, "nodes must be at least 1.*--nodes"),
        ("spares", -1, "spares must be 0 or more.*--spares"),
        ("rank_failures", 1.5, "between 0 and 1.*--rank-failures"),
        ("mtbf_seconds", 0.0, "mtbf must be a positive time.*--mtbf"),
        ("step_seconds", 0.0, "step must be a positive time.*--step-time"),
        ("save_seconds", -1.0, "save must be 0 or more.*--save-time"),
        ("steps", 0, "steps must be at least 1.*--steps"),
    ],
)
def test_a_number_out_of_its_range_is_refused_with_its_option(name: str, value: float, message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        collect(load_config(RECIPE), {name: value}, None)
