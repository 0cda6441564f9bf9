import json

import pytest

from launch.local.roll_call import RollCall
from trainer.runs.supervisor import HeldCopy, Holdings, Task


def test_ranks_are_heard_as_they_report_and_only_one_is_told_to_save() -> None:
    roll = RollCall()
    ends = {rank: roll.connect(rank)[0] for rank in range(3)}
    assert roll.read() == {}
    ends[0].sendall(b'{"lost_peer": true, "step": ')  # half of a line
    ends[2].sendall(b'{"lost_peer": true, "step": 7}\n')
    assert roll.read() == {2: Holdings(7)}
    ends[0].sendall(b'null, "copies": [{"step": 5, "shards": [0, 2], "has_model": true}]}\n')
    assert roll.read() == {0: Holdings(None, (HeldCopy(5, (0, 2), True),))}
    assert len(roll.connections) == 3
    ends[1].close()  # the rank that is lost
    assert roll.read() == {}
    assert len(roll.connections) == 2
    roll.answer({0: Task(), 1: Task(), 2: Task(saves=True)})
    assert [json.loads(ends[rank].recv(100)) for rank in (0, 2)] == [{"save": False}, {"save": True}]
    roll.close()
    assert ends[0].recv(100) == b""


@pytest.mark.parametrize(("given", "expected"), [(None, "0"), ("2", "2")])
def test_a_rank_on_a_gpu_outlives_its_peers(
    given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
    monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv(name, given)
    roll = RollCall()
    theirs, variables = roll.connect(0)
    assert variables[name] == expected
    theirs.close()
    roll.close()
