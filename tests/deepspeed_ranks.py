"""Engines for tests, in processes that `run_ranks` started: a tiny method on random images."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from data_pipelines.loading.prefetching_batches import Batch
from trainer.config.schema import Config, load_config
from trainer.distributed.collectives import rank, world_size
from trainer.distributed.deepspeed_internals import skip_shared_memory_collective
from trainer.engine.deepspeed_engine import Engine
from trainer.engine.lr_schedule import Schedule
from trainer.engine.optimizers import build_optimizer, parameter_groups
from trainer.runs.components import IMAGES, build_method

ROWS = 24  # of the global batch
STEPS = 100  # of the schedule
TINY = (
    "backbone.stem=half",
    "backbone.width=8",
    "method.projector_hidden=32",
    "method.predictor_hidden=32",
    "method.embedding_dim=16",
    "method.queue.size=50",
    "method.feature_scope=global",
    "method.transformer_dropout=0",
    f"train.global_batch={ROWS}",
    "train.precision=fp32",
)


def tiny(*overrides: str) -> Config:
    """A configuration of a method that steps in milliseconds."""
    return load_config("digits_demo", [*TINY, *overrides])


@contextmanager
def engine_of(config: Config) -> Iterator[Engine]:
    """The engine that a run of this configuration would have; the process group stays."""
    with patch.dict(os.environ, _rank_variables()):
        import deepspeed

        skip_shared_memory_collective()
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
        engine = _engine(config)
        yield engine
        engine._deepspeed.destroy()


def _rank_variables() -> dict[str, str]:
    return {
        "RANK": str(rank()),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(world_size()),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
        "DS_ACCELERATOR": "cpu",
    }


def _engine(config: Config) -> Engine:
    method = build_method(config, 10, torch.device("cpu"))
    groups = parameter_groups(method.named_parameters(), config.optim, ROWS, method.freeze_steps)
    return Engine(
        method,
        build_optimizer(groups, config.optim),
        Schedule(0.0, 2, STEPS),
        micro_batch=ROWS // config.train.grad_accum_steps // world_size(),
        accumulation=config.train.grad_accum_steps,
        max_grad_norm=config.optim.max_grad_norm,
        seed=0,
        total_steps=STEPS,
        zero=config.parallel.zero_stage,
        gradient_dtype=config.parallel.gradient_dtype,
    )


def batches(config: Config, step: int) -> list[Batch]:
    """This rank's micro-batches of a step: noise, a function of the step alone."""
    generator = torch.Generator().manual_seed(step)
    views = torch.randn(ROWS, 2, 3, 32, 32, generator=generator).to(IMAGES[config.train.precision])
    labels = torch.randint(10, (ROWS,), generator=generator)
    parts = config.train.grad_accum_steps * world_size()
    own = range(rank(), parts, world_size())
    images, marks, ids = views.chunk(parts), labels.chunk(parts), torch.arange(ROWS).chunk(parts)
    return [
        Batch(
            [v.contiguous(memory_format=torch.channels_last) for v in images[i].unbind(1)], marks[i], ids[i]
        )
        for i in own
    ]


def train(engine: Engine, config: Config, steps: range) -> list[float]:
    """Gradient norms of the steps."""
    return [float(engine.step(step, batches(config, step))["gradient_norm"]) for step in steps]


def everything(engine: Engine) -> dict[str, Tensor]:
    """Copies of all that a checkpoint would hold; on ranks other than the first perhaps without the optimizer."""
    model, optimizer = engine.state()
    named = model | {f"optimizer/{name}": tensor for name, tensor in optimizer.items()}
    return {name: tensor.detach().clone() for name, tensor in named.items()}
