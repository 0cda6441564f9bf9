import pytest
import torch

from trainer.distributed.collectives import rank
from trainer.evaluation.training_state import TrainingState


def make_tensors():
    """A convolution's weight, as it lies in memory on a device, and a count."""
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return {"weight": weight.to(memory_format=torch.channels_last), "count": torch.tensor(7)}


def blank():
    return {name: torch.zeros_like(tensor) for name, tensor in make_tensors().items()}


def assert_same(tensors):
    for name, tensor in make_tensors().items():
        assert tensors[name].equal(tensor)
        assert tensors[name].stride() == tensor.stride()


def test_tensors_and_notes_come_back_where_the_facts_are_the_same(tmp_path):
    facts = {"rates": (1.0, 2.0)}
    state = TrainingState(tmp_path / "state", facts)
    assert state.notes() == {}
    state.save(make_tensors(), {"epoch": 2})
    assert TrainingState(tmp_path / "state", {"rates": (1.0,)}).notes() == {}
    again = TrainingState(tmp_path / "state", facts)
    assert again.notes() == {"epoch": 2}
    tensors = blank()
    again.load(tensors)
    assert_same(tensors)
    again.save({}, {"done": [0.5]})
    assert again.notes() == {"done": [0.5]}
    again.remove()
    again.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 2, 100])
def test_a_file_that_is_no_state_is_passed_over(tmp_path, keep):
    path = tmp_path / "state"
    TrainingState(path, {}).save(make_tensors(), {"epoch": 2})
    path.write_bytes(path.read_bytes()[:keep])
    assert TrainingState(path, {}).notes() == {}


def ranks_loaded(folder):
    state = TrainingState(folder / ("none" if rank() else "state"), {})  # a rank may see the folder as it was
    tensors = blank()
    notes = state.notes()
    state.load(tensors)
    return notes, tensors


def test_all_ranks_go_on_from_what_the_first_one_reads(run_ranks, tmp_path):
    TrainingState(tmp_path / "state", {}).save(make_tensors(), {"epoch": 7})
    for notes, tensors in run_ranks(ranks_loaded, 2, tmp_path):
        assert notes == {"epoch": 7}
        assert_same(tensors)
