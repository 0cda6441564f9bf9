"""Whether equal steps give equal bits on a GPU, and which settings of torch decide that."""

import os

import torch

from trainer.config.schema import Config

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED_WORKSPACES = (":4096:8", ":16:8")
"""Values with which cuBLAS gives equal bits (NVIDIA cuBLAS documentation, "Results reproducibility")."""


def apply_determinism(config: Config, device: torch.device) -> None:
    """Set what `train.deterministic` and `parallel.cudnn_benchmark` ask of torch. It has no effect on a CPU.

    Call it before the first matrix product of the process, because cuBLAS reads its workspace only once.
    """
    if device.type != "cuda":
        return
    if config.train.deterministic and os.environ.get(_WORKSPACE) not in _FIXED_WORKSPACES:
        os.environ[_WORKSPACE] = _FIXED_WORKSPACES[0]
    torch.use_deterministic_algorithms(config.train.deterministic)
    torch.backends.cudnn.benchmark = config.parallel.cudnn_benchmark


def resumes_bitwise(config: Config, device: torch.device) -> bool:
    """Return whether a killed and resumed run ends with the bits of an undisturbed one.

    On a CPU it always does. On a GPU torch and cuDNN may add in another order each time, unless they must not.
    """
    return device.type != "cuda" or config.train.deterministic
