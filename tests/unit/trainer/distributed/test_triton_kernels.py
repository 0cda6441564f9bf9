import subprocess
import sys
from pathlib import Path

import pytest

from trainer.distributed.triton_kernels import can_compile


def test_a_compiler_is_found_by_its_usual_names_or_by_cc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert not can_compile()
    for name in ("gcc", "other"):
        (tmp_path / name).touch(0o755)
    assert can_compile()
    monkeypatch.setenv("CC", "absent")
    assert not can_compile()
    monkeypatch.setenv("CC", "other")
    assert can_compile()


def test_defining_operations_does_not_load_triton() -> None:
    code = (
        "import sys, torch\n"
        "from trainer.distributed import batch_norm_cuda\n"
        "from trainer.networks import layer_norms\n"
        "assert torch.ops.all4one.layer_norm and torch.ops.all4one.normalize\n"
        "sys.exit('triton' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
    )
