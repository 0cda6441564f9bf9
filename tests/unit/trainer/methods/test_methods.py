import gc
from typing import Literal

import pytest
import torch
from small_methods import QUEUE, SMALL
from torch import Tensor, nn

from trainer.methods import Method, available
from trainer.methods.all4one import All4OneSettings
from trainer.methods.moco_v3 import MoCoV3Settings
from trainer.networks.backbones import BackboneSettings, build_backbone
from trainer.networks.ema import MomentumEncoder, momentum_at


def make(name: str, num_classes: int = 3) -> Method:
    torch.manual_seed(0)
    return SMALL[name].build(build_backbone(BackboneSettings(width=8), 16), num_classes)


def batch() -> tuple[list[Tensor], Tensor, Tensor]:
    return [torch.randn(6, 3, 16, 16) for _ in range(2)], torch.tensor([0, 1, 2, 0, 1, -1]), torch.arange(6)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_trainable_weight_learns_and_every_frozen_one_does_not(name: str) -> None:
    method = make(name)
    method(*batch()).loss.backward()
    for weight, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, weight
            assert parameter.grad.isfinite().all(), weight
        else:
            assert weight.startswith("momentum."), weight
            assert parameter.grad is None, weight


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_classifier_learns_from_detached_features_only(name: str) -> None:
    with_classifier, without = make(name), make(name, num_classes=0)
    without.load_state_dict(
        {k: v for k, v in with_classifier.state_dict().items() if not k.startswith("classifier")}
    )
    data = batch()
    torch.manual_seed(1)
    with_classifier(*data).loss.backward()
    torch.manual_seed(1)
    out = without(*data)
    out.loss.backward()
    assert "online_loss" not in out.parts
    for (_, a), (_, b) in zip(
        with_classifier.backbone.named_parameters(), without.backbone.named_parameters(), strict=True
    ):
        assert torch.equal(a.grad, b.grad)
    assert with_classifier.classifier is not None
    assert with_classifier.classifier.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_classifier_may_learn_from_all_global_views_that_the_backbone_sees(name: str) -> None:
    method, (views, labels, ids) = make(name), batch()
    seen: list[Tensor] = []
    method.backbone.register_forward_hook(lambda m, i, features: seen.append(features.detach()))
    method.classifier_views = "global"
    out = method(views, labels, ids)
    assert method.classifier is not None
    assert len(seen) == (1 if name == "msf" else 2)
    errors = [nn.functional.cross_entropy(method.classifier(f), labels, ignore_index=-1) for f in seen]
    torch.testing.assert_close(out.parts["online_loss"], torch.stack(errors).mean().detach())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_unlabeled_batches_train(name: str) -> None:
    method = make(name)
    views, _, ids = batch()
    out = method(views, torch.full((6,), -1), ids)
    out.loss.backward()
    assert out.parts["online_loss"].isnan(), "there is none"
    assert out.loss.isfinite()
    assert out.loss == out.parts["loss"]


@pytest.mark.parametrize("name", ["all4one", "nnclr"])
def test_the_queue_takes_the_first_views_keys_after_backward(name: str) -> None:
    method = make(name)
    queue = method.queue
    assert queue is not None
    before = queue.rows.clone()
    views, labels, ids = batch()
    method(views, labels, ids).loss.backward()
    assert torch.equal(queue.rows, before)
    method.after_backward()
    assert torch.equal(queue.ids[:6], ids)
    assert torch.equal(queue.labels[:6], labels)
    assert torch.equal(queue.rows[6:], before[6:])
    torch.testing.assert_close(queue.rows[:6].norm(dim=1), torch.ones(6))


@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_recomputing_changes_no_loss_and_no_gradient(name: str, precision: torch.dtype | None) -> None:
    plain, lean = make(name), make(name)
    lean.recompute = True
    data, losses = batch(), []
    for method in (plain, lean):
        method.autocast_dtype = precision
        torch.manual_seed(1)
        out = method(*data)
        out.loss.backward()
        method.after_backward()
        losses.append(out.loss.detach())
    assert torch.equal(*losses)
    for (weight, a), (_, b) in zip(plain.named_parameters(), lean.named_parameters(), strict=True):
        if a.grad is not None:
            assert b.grad is not None
            apart = (a.grad - b.grad).norm() / (a.grad.norm() + 1e-6)
            assert apart < (1e-3 if precision is None else 0.05), weight
    for (_, a), (_, b) in zip(plain.named_buffers(), lean.named_buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_autocast_computes_in_bf16_and_keeps_losses_weights_and_queue_in_fp32(name: str) -> None:
    method = make(name)
    method.autocast_dtype = torch.bfloat16
    seen: list[torch.dtype] = []
    for backbone in method.evaluation_backbones().values():
        backbone.layer1.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    out = method(*batch())
    out.loss.backward()
    method.after_backward()
    views = 1 if name == "msf" else 2  # that each backbone sees
    assert seen == [torch.bfloat16] * views * len(method.evaluation_backbones())
    assert out.loss.dtype == torch.float32
    assert method.queue is None or method.queue.rows.dtype == torch.float32
    assert {p.dtype for p in method.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_all_health_values_are_finite(name: str) -> None:
    method = make(name)
    method.log_diagnostics = True
    parts = method(*batch()).parts
    assert {"z_std", "z_rank", "features_std", "features_rank"} <= parts.keys()
    assert ("ema_distance" in parts) == bool(method.ema_pairs())
    assert not [part for part, value in parts.items() if not value.isfinite()]
    shares = [value for part, value in parts.items() if part.endswith("_share")]
    assert not shares or float(sum(shares)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "start"),
    [("all4one", 0.99), ("byol", 0.996), ("moco_v3", 0.99), ("dino", 0.996), ("msf", 0.99), ("resa", 0.996)],
)
def test_the_averaged_copy_moves_with_the_published_momentum(name: str, start: float) -> None:
    method = make(name)
    copy: nn.Module = method.momentum
    before = {k: v.clone() for k, v in copy.named_parameters()}
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(1.0)
    for parameter, old in zip(copy.parameters(), before.values(), strict=True):
        parameter.data.copy_(old)
    method.after_step(step=1, total_steps=10)
    online = dict(method.named_parameters())
    tau = momentum_at(0, 10, start)
    for weight, parameter in copy.named_parameters():
        torch.testing.assert_close(parameter, tau * before[weight] + (1 - tau) * online[weight])
    assert set(method.evaluation_backbones()) == {"online", "momentum"}


class Own(Method):
    """A method that only makes its copy."""

    def __init__(self) -> None:
        super().__init__(build_backbone(BackboneSettings(width=8), 16), 0)
        self.projector = nn.Linear(self.backbone.feature_dim, 4)
        self.momentum = MomentumEncoder(self.backbone, self.projector, 0.5)


def test_a_method_that_makes_a_copy_needs_no_hook_for_it() -> None:
    method = Own()
    copy = method.momentum["projector"]
    assert method.evaluation_backbones() == {
        "online": method.backbone,
        "momentum": method.momentum["backbone"],
    }
    assert method.ema_pairs() == [(method.momentum["backbone"], method.backbone), (copy, method.projector)]
    before = copy.bias.clone()
    with torch.no_grad():
        method.projector.bias.add_(1)
    method.after_step(step=1, total_steps=10)
    torch.testing.assert_close(copy.bias, before + 0.5)


def test_moco_v3_keeps_the_patches_of_a_vision_transformer_as_they_are_drawn() -> None:
    for freeze in (True, False):
        settings = MoCoV3Settings(
            projector_hidden=8, predictor_hidden=8, embedding_dim=4, freeze_patches=freeze
        )
        method = settings.build(build_backbone(BackboneSettings(name="test_vit"), 160), 0)
        method(
            [torch.randn(2, 3, 160, 160) for _ in range(2)], torch.full((2,), -1), torch.arange(2)
        ).loss.backward()
        learn = {n for n, p in method.backbone.named_parameters() if p.grad is not None}
        assert ("patch_embed.proj.weight" in learn) is not freeze
        assert "blocks.0.attn.qkv.weight" in learn


def count_gathers() -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    send = torch.distributed.all_gather_single

    def counted(out: Tensor, x: Tensor, **options: bool) -> object:
        shapes.append(tuple(x.shape))
        return send(out, x, **options)

    torch.distributed.all_gather_single = counted
    method = make("all4one")
    method(*batch()).loss.backward()
    method.after_backward()
    return shapes


@pytest.mark.slow
def test_a_step_sends_one_message_of_keys_and_one_of_predictions(run_ranks) -> None:
    keys = (6, 8 + 4)  # words of a key, a label and an id
    predictions = (6, 4 * 8)
    assert run_ranks(count_gathers, 2) == [[keys, predictions]] * 2


def test_the_paper_encoding_is_a_choice() -> None:
    settings = All4OneSettings(
        projector_hidden=16,
        predictor_hidden=16,
        embedding_dim=8,
        queue=QUEUE,
        num_neighbors=3,
        positional_encoding="sequence_axis",
    )
    method = settings.build(build_backbone(BackboneSettings(width=8), 16), 0)
    assert method.transformer.encoding.shape == (3, 8)
    method(*batch()).loss.backward()


def test_a_method_may_take_its_settings_from_another_s() -> None:
    class Colder(MoCoV3Settings):
        name: Literal["colder"] = "colder"

    assert available()["colder"] is Colder
    del Colder
    gc.collect()
    assert "colder" not in available()
