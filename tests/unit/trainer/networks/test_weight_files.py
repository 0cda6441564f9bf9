import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from data_pipelines.errors import UserError
from trainer.networks.weight_files import read_weights


def test_named_tensors_are_found_by_the_key_that_they_lie_under(tmp_path):
    a, b, c = torch.rand(2), torch.rand(3), torch.rand(4)
    content = {
        "epoch": 3,
        "loose": a,
        "state_dict": {"x.weight": b, "note": "text"},
        "empty": {},
        "nested": {"ema": {"x.weight": c}},
        "optimizer": {"state": {0: {"step": a}}},
        "list": [{"x.weight": a}],
    }
    torch.save(content, tmp_path / "file.ckpt")
    found = read_weights(tmp_path / "file.ckpt")
    assert list(found) == ["", "state_dict", "nested.ema"]
    assert [list(tensors) for tensors in found.values()] == [["loose"], ["x.weight"], ["x.weight"]]
    assert found["state_dict"]["x.weight"].equal(b)
    assert found["nested.ema"]["x.weight"].equal(c)
    save_file({"x.weight": b}, str(tmp_path / "file.safetensors"))
    assert read_weights(tmp_path / "file.safetensors")[""]["x.weight"].equal(b)


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pth", None, "there is no such file"),
        ("text.pth", b"weights", "cannot be read as weights only"),
        ("text.safetensors", b"weights", "not a complete safetensors file"),
        ("empty.pth", b"", "cannot be read as weights only"),
        (
            "harm.pth",
            pickle.dumps({"state_dict": Harm()}, protocol=2),
            r"weights only[\s\S]*weights_only=False",
        ),
    ],
)
def test_files_that_are_none(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_weights(tmp_path / name)
    assert not (tmp_path / "harm").exists()
