"""The trace that torch keeps of the last collectives of this process: NCCL's or gloo's flight recorder.

Torch 2.14 keeps the last 2000. `TORCH_FR_BUFFER_SIZE`, formerly `TORCH_NCCL_TRACE_BUFFER_SIZE`, sets another number.
"""

import sys
from typing import Any


def collective_trace() -> bytes | None:
    """Return the trace as JSON. None: the ranks have not met, or this build of torch keeps none.

    Any thread may call this. It takes no part in a collective.
    """
    dist: Any = sys.modules.get("torch.distributed")  # a rank that hangs must not begin to import torch
    if dist is None or not dist.is_initialized():
        return None
    native = sys.modules.get("torch._C._distributed_c10d")
    name = "_dump_nccl_trace_json" if "nccl" in str(dist.get_backend_config()) else "_dump_fr_trace_json"
    dump = getattr(native, name, None)
    return None if dump is None else bytes(dump())
