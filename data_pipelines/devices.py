"""The device of this process: a GPU if torch sees one, and the CPU otherwise.

NVML lists GPUs without the CUDA driver, so torch may count GPUs that it cannot use. Such a process must not fall back
to the CPU, where a run would take weeks without a word.
"""

import platform
import warnings
from typing import TYPE_CHECKING

from data_pipelines.errors import UserError, first_line

if TYPE_CHECKING:
    import torch

_FIX = (
    "fix the driver, or choose another GPU with CUDA_VISIBLE_DEVICES. To use the CPUs of this machine instead, set "
    "CUDA_VISIBLE_DEVICES= (empty)"
)


def count_gpus() -> int:
    """Return how many GPUs torch sees. If NVML lists them, the CUDA driver stays uninitialized for forks.

    Raises:
        UserError: there is a driver, and it cannot be used.
    """
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count()
    failures = [warning.message for warning in caught if "CUDA initialization" in str(warning.message)]
    if failures and not count:
        raise _unusable("torch finds a CUDA driver that it cannot use", failures[0])
    return count


def choose_device(index: int | None = None) -> "torch.device":
    """Return the GPU that this process is to use, or the CPU if there is no GPU.

    Args:
        index: number of the GPU, which becomes the current one. None: the current one stays.

    Raises:
        UserError: torch sees GPUs and cannot use this one, or sees fewer GPUs.
    """
    import torch

    count = count_gpus()
    if not count:
        return torch.device("cpu")
    if index is not None and index >= count:
        raise UserError(
            f"process {index} of this node finds only {count} GPUs",
            where=platform.node(),
            fix="start at most one process for each GPU, or request more GPUs",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error has the same text
            torch.cuda.init()
            chosen = torch.cuda.current_device() if index is None else index
            torch.cuda.set_device(chosen)
    except RuntimeError as error:
        raise _unusable(f"torch sees GPUs ({count}) and cannot use GPU {index or 0}", error) from None
    return torch.device("cuda", chosen)


def _unusable(what: str, error: BaseException | str) -> UserError:
    reason = first_line(error) if isinstance(error, BaseException) else error
    return UserError(f"{what}: {reason.rstrip('.')}", where=platform.node(), fix=_FIX)
