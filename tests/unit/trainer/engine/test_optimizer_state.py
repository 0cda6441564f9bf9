import pytest
import torch
from learner import Learner

from data_pipelines.errors import UserError
from trainer.engine.optimizer_state import load_optimizer_tensors, optimizer_tensors
from trainer.engine.optimizers import OptimSettings, build_optimizer, parameter_groups


def train(learner, optimizer, steps, *, start=0):
    for step in range(start, start + steps):
        torch.manual_seed(step)
        for parameter in learner.parameters():
            parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
        optimizer.step()


def learner_and_optimizer(name):
    torch.manual_seed(0)
    learner = Learner()
    settings = OptimSettings(name=name, lr=0.1)
    return learner, build_optimizer(parameter_groups(learner.named_parameters(), settings, 256), settings)


@pytest.mark.parametrize("name", ["lars", "adamw", "sgd"])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_run_goes_on_bitwise_with_saved_tensors(name, steps_before):
    straight, optimizer = learner_and_optimizer(name)
    train(straight, optimizer, steps_before)
    weights = {k: v.clone() for k, v in straight.state_dict().items()}
    saved = {k: v.clone() for k, v in optimizer_tensors(optimizer, straight.named_parameters()).items()}
    train(straight, optimizer, 2, start=steps_before)

    resumed, other = learner_and_optimizer(name)
    train(resumed, other, 1, start=99)
    resumed.load_state_dict(weights)
    load_optimizer_tensors(other, resumed.named_parameters(), saved)
    again = optimizer_tensors(other, resumed.named_parameters())
    assert again.keys() == saved.keys()
    assert all(torch.equal(again[k], saved[k]) and again[k].dtype == saved[k].dtype for k in saved)
    train(resumed, other, 2, start=steps_before)
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_names_of_the_state():
    for name, kinds in {"lars": ["momentum"], "adamw": ["exp_avg", "exp_avg_sq", "step"]}.items():
        learner, optimizer = learner_and_optimizer(name)
        train(learner, optimizer, 1)
        tensors = optimizer_tensors(optimizer, learner.named_parameters())
        trained = {n: p.shape for n, p in learner.named_parameters() if p.requires_grad}
        assert tensors.keys() == {f"{kind}/{n}" for kind in kinds for n in trained}
        assert all(tensors[f"{kinds[0]}/{n}"].shape == shape for n, shape in trained.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("momentum/classifier.bias"), "lacks momentum/classifier.bias"),
        (lambda t: t.update({"momentum/nobody": torch.zeros(1)}), "has momentum/nobody"),
        (
            lambda t: t.update({"momentum/classifier.bias": torch.zeros(3)}),
            r"\[3\], the parameter needs .* \[10\]",
        ),
        (lambda t: t.update({"momentum/classifier.bias": torch.zeros(10).double()}), "float64"),
        (lambda t: t.clear(), "and 6 more"),
    ],
)
def test_state_of_another_model_is_refused_and_nothing_is_changed(change, message):
    learner, optimizer = learner_and_optimizer("lars")
    train(learner, optimizer, 1)
    before = {k: v.clone() for k, v in optimizer_tensors(optimizer, learner.named_parameters()).items()}
    tensors = dict(before)
    change(tensors)
    with pytest.raises(UserError, match=message):
        load_optimizer_tensors(optimizer, learner.named_parameters(), tensors)
    after = optimizer_tensors(optimizer, learner.named_parameters())
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_loaded_state_does_not_alias_what_it_came_from():
    learner, optimizer = learner_and_optimizer("lars")
    train(learner, optimizer, 1)
    tensors = {k: v.clone() for k, v in optimizer_tensors(optimizer, learner.named_parameters()).items()}
    kept = {k: v.clone() for k, v in tensors.items()}
    load_optimizer_tensors(optimizer, learner.named_parameters(), tensors)
    train(learner, optimizer, 1)
    assert all(torch.equal(tensors[k], kept[k]) for k in kept)
