"""DeepSpeed's configuration and start.

Its defaults are replaced by explicit settings here, each for a measured reason.
"""

import logging
import os
import warnings
from typing import Any

import torch

from trainer.distributed.deepspeed_internals import allow_float64, without_compiler
from trainer.distributed.gradient_buckets import BUCKET
from trainer.methods import Method


def deepspeed_config(micro_batch: int, accumulation: int, zero: int, gradient_dtype: str) -> dict[str, Any]:
    """Return DeepSpeed's configuration for a ZeRO stage from 0 to 2 with our own optimizer."""
    stage: dict[str, Any] = {"stage": zero}
    if zero:
        stage |= {
            "overlap_comm": False,  # would wait for the device after every backward pass
            "contiguous_gradients": True,
            "reduce_bucket_size": BUCKET,  # the default makes two buffers of 2 GB each
            "round_robin_gradients": False,  # would reorder the pieces of the concatenation
            "compute_grad_norm": False,  # would wait for the device, and the engine computes the norm
        }
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": 0.0,  # the default is 1.0, and the engine clips
        "zero_optimization": stage,
        "zero_allow_untested_optimizer": True,
        "communication_data_type": gradient_dtype,
        # DeepSpeed's autocast is a global of its module and outlives the engine. The method does the autocast instead.
        "torch_autocast": {"enabled": False},
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # would wait for the device twice per micro-batch
    }


def initialize_deepspeed(method: Method, optimizer: torch.optim.Optimizer, config: dict[str, Any]) -> Any:
    """Return DeepSpeed's engine for a method on its device."""
    device = next(method.parameters()).device
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)  # it warns of every optimizer except its own
    warnings.filterwarnings(
        "ignore", "`torch.distributed.all_gather_into_tensor`", FutureWarning
    )  # DeepSpeed calls it
    if next(method.parameters()).dtype == torch.float64:
        allow_float64()
    with without_compiler():
        engine, *_ = deepspeed.initialize(
            model=method, optimizer=optimizer, config=config, dist_init_required=False
        )
    return engine
