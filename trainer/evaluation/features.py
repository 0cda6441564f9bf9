"""Frozen features of a whole set, from all ranks together."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from data_pipelines.loader import EvalLoader
from trainer.parallel import gather, rank, world_size


class Stopped(Exception):
    """A signal asked to stop while features were made; the evaluation is left out and done on resume."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)


@torch.no_grad()
def extract(
    backbones: Mapping[str, nn.Module], loader: EvalLoader, *, autocast: torch.dtype | None = None,
    stop: Callable[[], int] = lambda: 0, advance: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
    """Features of several backbones in evaluation mode, in one pass over the images.

    Args:
        backbones: by name; their training modes are put back afterwards.
        loader: this rank's share of the set; every rank calls with its own.
        autocast: precision of the forward pass, None for full.
        stop: polled after each batch by all ranks together; other than 0 raises `Stopped`.
        advance: called after each batch, for a progress bar.

    Returns:
        Features [N, F] by backbone's name, float32 on the CPU, and labels [N], in the set's order, on rank 0.
        Other ranks get empty tensors.
    """
    modes = {name: backbone.training for name, backbone in backbones.items()}
    device = next(next(iter(backbones.values())).parameters()).device.type
    features: dict[str, list[Tensor]] = {name: [] for name in backbones}
    labels, ids = [], []
    try:
        for backbone in backbones.values():
            backbone.eval()
        batches = iter(loader)
        # every rank polls equally often, also where its share is one batch shorter than another's
        for _ in range(_most_batches(loader)):
            if (batch := next(batches, None)) is not None:
                with torch.autocast(device, dtype=autocast, enabled=autocast is not None):
                    for name, backbone in backbones.items():
                        features[name].append(backbone(batch.images).float().cpu())
                labels.append(batch.labels.cpu())
                ids.append(batch.ids.cpu())
                advance()
            if code := stop():
                raise Stopped(code)
    finally:
        for name, backbone in backbones.items():
            backbone.train(modes[name])
    order = _collect(torch.cat(ids))
    collected = {name: _collect(torch.cat(parts)) for name, parts in features.items()}
    all_labels = _collect(torch.cat(labels))
    if rank() != 0:
        return {name: torch.empty(0) for name in backbones}, torch.empty(0)
    place = order.argsort()
    return {name: part[place] for name, part in collected.items()}, all_labels[place]


def _most_batches(loader: EvalLoader) -> int:
    return int(gather(torch.tensor([len(loader)])).max())


def _collect(rows: Tensor) -> Tensor:
    """Rows of all ranks, whose shares may differ by one."""
    if world_size() == 1:
        return rows
    count = torch.tensor([len(rows)])
    counts = gather(count).tolist()
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts: list[Tensor] = list(gather(padded).chunk(world_size()))
    return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])
