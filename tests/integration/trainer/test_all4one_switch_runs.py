"""All4One without some of its parts as runs have it: at each ZeRO stage, and with small views."""

import pytest
import torch
import torch.distributed as dist
from deepspeed_ranks import engine_of, everything, tiny, train
from tiny_runs import NO_EVALUATION
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.networks.backbones import BackboneSettings, build_backbone

Tensors = dict[str, Tensor]
CASES = {
    "only feature": ("method.neighbor_weight=0", "method.centroid_weight=0"),
    "only neighbor": ("method.centroid_weight=0", "method.feature_weight=0", "method.queue_views=both"),
    "one way": ("method.symmetric=false", "method.positional_encoding=none"),
    "encoder space": ("method.neighbor_space=encoder",),
    "drawn k": ("method.min_neighbors=1",),
    "refreshed queue": ("method.queue_refresh=0.5", "train.grad_accum_steps=2"),
}


def norms_of(case: tuple[str, ...]) -> tuple[list[list[float]], bool]:
    """Gradient norms of three steps at each stage, and whether stage 2 took over all that stage 1 had saved."""
    found, sent = [], [None]
    for zero in (0, 1, 2):
        config = tiny(*case, f"parallel.zero_stage={zero}")
        with engine_of(config) as engine:
            found.append(train(engine, config, range(3)))
            if zero == 1:
                sent = [everything(engine)]
                dist.broadcast_object_list(sent)
            if zero < 2:
                continue
            train(engine, config, range(3, 4))
            saved = sent[0]
            assert saved is not None
            optimizer = {k.removeprefix("optimizer/"): t for k, t in saved.items() if "/" in k}
            engine.load_state({k: t for k, t in saved.items() if "/" not in k}, optimizer)
            loaded = everything(engine)
    return found, all(torch.equal(loaded[k], t) for k, t in saved.items() if k in loaded)


@pytest.mark.parametrize("name", CASES)
def test_all_stages_train_the_same_without_the_parts_that_are_off(run_ranks, name: str) -> None:
    norms, taken_over = run_ranks(norms_of, 2, CASES[name])[0]
    assert norms[0][0] > 0
    for other in norms[1:]:
        assert other == pytest.approx(norms[0], rel=1e-3)
    assert taken_over


def resumed(*overrides: str) -> tuple[Tensors, Tensors]:
    """The state after four steps, and after two steps and two more of an engine that loaded the state between."""
    config = tiny(*overrides)
    with engine_of(config) as engine:
        train(engine, config, range(2))
        saved = everything(engine)
        train(engine, config, range(2, 4))
        wanted = everything(engine)
    with engine_of(config) as engine:
        train(engine, config, range(1))  # there is other state to replace
        optimizer = {k.removeprefix("optimizer/"): t for k, t in saved.items() if "/" in k}
        engine.load_state({k: t for k, t in saved.items() if "/" not in k}, optimizer)
        train(engine, config, range(2, 4))
        return wanted, everything(engine)


@pytest.mark.parametrize("name", ["encoder space", "drawn k", "refreshed queue"])
def test_a_variant_resumes_bitwise(run_ranks, name: str) -> None:
    for wanted, found in run_ranks(resumed, 2, *CASES[name]):
        assert found.keys() == wanted.keys()
        assert [n for n, tensor in wanted.items() if not torch.equal(found[n], tensor)] == []


def test_a_run_with_small_views_learns_from_them(runs) -> None:
    given = ("data.views=[{size: 32}, {size: 32}, {size: 16, count: 2}]", "method.queue_views=both")
    result = runs.train("small_views", *given, "train.max_steps=3", "optim.warmup_epochs=0", NO_EVALUATION)
    assert result.code == 0, result.out
    queue = runs.tensors("small_views")["queue.ids"]
    assert (queue >= 0).all()  # 3 steps of 64 images, both keys of each, fill 200 places
    records = runs.metrics("small_views")
    assert {"neighbor", "centroid", "feature"} <= next(r for r in records if r["kind"] == "train").keys()


def test_a_backbone_that_refuses_small_views_is_said() -> None:
    settings = BackboneSettings(name="vit_tiny_patch16_224")
    with pytest.raises(UserError, match="does not accept images of 96 x 96 pixels"):
        build_backbone(settings, 224, 96)
