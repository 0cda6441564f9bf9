"""Every switch of All4One against the paper's formulas, straight and in float64, on one process and on two."""

from typing import NamedTuple

import pytest
import torch
from all4one_formula import ROWS, SWITCHES, images, make, settings_of
from rank_processes import run_as_ranks
from straight_formulas import Result, Tensors, assert_same, cross_entropy, linear, norm, three, two, unit
from torch import Tensor

from trainer.distributed.batch_norm import synchronize_batch_norm
from trainer.distributed.collectives import all_reduce_sum, rank, world_size
from trainer.methods.all4one import All4OneSettings
from trainer.networks.heads import positional_encoding


class Found(NamedTuple):
    result: Result
    parts: Tensors
    """Means over the ranks."""
    queue: Tensors


def encoded(p: Tensors, x: Tensor, copy: str = "") -> Tensor:
    """The features of a backbone."""
    half = x.shape[-1] // 2
    pooled = x.reshape(len(x), 3, 2, half, 2, half).mean((3, 5)).reshape(len(x), 12)
    return norm(p, f"{copy}backbone.3", linear(p, f"{copy}backbone.2", pooled)).tanh()


def embedding(p: Tensors, x: Tensor, copy: str = "") -> Tensor:
    return norm(p, f"{copy}projector.7", three(p, f"{copy}projector", encoded(p, x, copy)))


def layer_norm(p: Tensors, layer: str, x: Tensor) -> Tensor:
    centerd = x - x.mean(-1, keepdim=True)
    scaled = centerd / (centerd.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * p[f"{layer}.weight"] + p[f"{layer}.bias"]


def attention(p: Tensors, s: All4OneSettings, layer: str, x: Tensor) -> Tensor:
    """[k, D] -> [k, D]: every token of one sequence attends to all tokens."""
    size = s.embedding_dim // s.transformer_heads
    q, k, v = (x @ p[f"{layer}.in_proj_weight"].T + p[f"{layer}.in_proj_bias"]).chunk(3, dim=1)
    heads = []
    for h in range(s.transformer_heads):
        own = slice(h * size, (h + 1) * size)
        scores = (q[:, own] @ k[:, own].T / size**0.5).exp()
        heads.append(scores / scores.sum(1, keepdim=True) @ v[:, own])
    return linear(p, f"{layer}.out_proj", torch.cat(heads, 1))


def neighbor(s: All4OneSettings, key: Tensor, rows: Tensor) -> Tensor:
    """The target [D] of a key [D] with the neighbors [k, D]."""
    if not s.neighbor_softness:
        return rows[0]
    weights = (rows @ key / s.neighbor_softness).exp()
    return (weights[:, None] * rows).sum(0) / weights.sum()


def centroid(p: Tensors, s: All4OneSettings, sequence: Tensor) -> Tensor:
    """[k, D] -> [D]: the whole encoder on one sequence, or one attention layer, with all tokens."""
    x = (
        sequence
        + positional_encoding(s.num_neighbors, s.embedding_dim, s.positional_encoding)[: len(sequence)]
    )
    if s.centroid_pooling == "attention":
        return layer_norm(p, "transformer.norm", x + attention(p, s, "transformer.attention", x))[0]
    for depth in range(s.transformer_depth):
        layer = f"transformer.layers.{depth}"
        x = layer_norm(p, f"{layer}.norm1", x + attention(p, s, f"{layer}.self_attn", x))
        hidden = linear(p, f"{layer}.linear1", x).clamp(min=0)
        x = layer_norm(p, f"{layer}.norm2", x + linear(p, f"{layer}.linear2", hidden))
    return x[0]


def counts(s: All4OneSettings) -> list[int]:
    """The number of neighbors of each image of the batch."""
    if not s.min_neighbors:
        return [s.num_neighbors] * ROWS
    drawn = torch.randint(
        s.min_neighbors, s.num_neighbors + 1, (ROWS,), generator=torch.Generator().manual_seed(0)
    )
    return drawn.tolist()


def feature(keys: list[Tensor], z: list[Tensor], directions: list[tuple[int, int]]) -> Tensor:
    on, off = [], []
    for i, j in directions:
        for a in range(z[j].shape[1]):
            for b in range(z[j].shape[1]):
                x, y = keys[i][:, a], z[j][:, b]
                cosine = (x @ y) / (x.norm() * y.norm())
                (on if a == b else off).append((cosine - int(a == b)) ** 2)
    return 10 * (0.5 * torch.stack(on).mean().sqrt() + 0.5 * torch.stack(off).mean().sqrt())


def pushed(p: Tensors, name: str) -> Tensors:
    """What the two global views would write into each buffer of the queue that has vectors, [2B, …]."""
    views = images(name)[:2]
    found = {"queue.rows": torch.cat([unit(embedding(p, x, "momentum.")) for x in views])}
    if "queue.search_rows" in p:
        found["queue.search_rows"] = torch.cat([unit(encoded(p, x, "momentum.")) for x in views])
    return found


def nearest_first(p: Tensors, name: str) -> list[Tensor]:
    """All rows of the queue in the order of their similarity to each image, [B, N] for each global view."""
    compared = "queue.search_rows" if settings_of(name).neighbor_space == "encoder" else "queue.rows"
    keys = pushed(p, name)[compared].chunk(2)
    return [(key @ p[compared].T).argsort(dim=1, descending=True) for key in keys]


def refreshed(p: Tensors, name: str) -> Tensors:
    """The vectors of the queue after their nearest keys of the first view have moved them."""
    found, far = {}, settings_of(name).queue_refresh
    hits = nearest_first(p, name)[0][:, 0]
    for n, keys in pushed(p, name).items():
        found[n] = p[n].clone()
        for row in set(hits.tolist()) if far else ():
            mean = keys[:ROWS][hits == row].mean(0)
            found[n][row] = unit(((1 - far) * p[n][row] + far * mean)[None])[0]
    return found


def straight(p: Tensors, name: str, ranks: int) -> Tensors:
    """The contrasts that have a weight."""
    s, views = settings_of(name), images(name)
    keys = list(pushed(p, name)["queue.rows"].chunk(2))
    z = [embedding(p, x) for x in views]
    directions = [(0, 1), (1, 0)] if s.symmetric else [(0, 1)]
    neighbors = []
    if s.neighbor_weight or s.centroid_weight:
        order = nearest_first(p, name)
        neighbors = [p["queue.rows"][places[:, : s.num_neighbors]] for places in order]  # 2 x [B, k, D]
    parts: Tensors = {}
    if s.neighbor_weight:
        targets = [
            torch.stack([neighbor(s, *pair) for pair in zip(key, rows, strict=True)])
            for key, rows in zip(keys, neighbors, strict=True)
        ]
        parts["neighbor"] = torch.stack(
            [
                cross_entropy(unit(targets[i]) @ unit(two(p, "neighbor_predictor", z[j])).T / 0.2)
                for i, _ in directions
                for j in range(len(views))
                if j != i
            ]
        ).mean()
    if s.centroid_weight:
        losses = []
        for i, other in directions:
            targets = torch.stack(
                [centroid(p, s, rows[:k]) for rows, k in zip(neighbors[i], counts(s), strict=True)]
            )
            for j in range(len(views)):
                if j == i:
                    continue
                predicted = two(p, "centroid_predictor", z[j])
                follow = neighbors[other]  # of the prediction's own view where it is a global one
                made = [
                    centroid(p, s, torch.cat([q[None], rows[: k - 1]]))
                    for q, rows, k in zip(predicted, follow, counts(s), strict=True)
                ]
                losses.append(cross_entropy(unit(targets) @ unit(torch.stack(made)).T / 0.1))
        parts["centroid"] = torch.stack(losses).mean()
    if s.feature_weight:
        groups = [slice(r * ROWS // ranks, (r + 1) * ROWS // ranks) for r in range(ranks)]
        if s.feature_scope == "global":
            groups = [slice(None)]
        parts["feature"] = torch.stack(
            [feature([k[g] for k in keys], [v[g] for v in z], directions) for g in groups]
        ).mean()
    return parts


def expected(name: str, ranks: int) -> Found:
    method, s = make(name), settings_of(name)
    tensors = {n: t.detach().clone() for n, t in method.state_dict().items()}
    learn = [n for n, p in method.named_parameters() if p.requires_grad]
    for n in learn:
        tensors[n].requires_grad_()
    parts = straight(tensors, name, ranks)
    loss = sum((getattr(s, f"{part}_weight") * value for part, value in parts.items()), torch.zeros(()))
    gradients = torch.autograd.grad(loss, [tensors[n] for n in learn])
    queue: Tensors = {}
    if method.queue is not None:
        count = 2 * ROWS if s.queue_views == "both" else ROWS
        fresh = pushed(tensors, name) | {"queue.ids": torch.arange(2 * ROWS) % ROWS}
        queue = {n: torch.cat([new[:count], tensors[n][count:]]) for n, new in fresh.items()}
        queue["queue.head"] = torch.tensor(count)
        for n, moved in refreshed(tensors, name).items():
            queue[n][count:] = moved[count:]  # where a new key is, it wins
    return Found(Result(loss.detach(), dict(zip(learn, gradients, strict=True))), parts, queue)


def computed(name: str) -> Found:
    """What this rank's method makes of its rows, and the engine of all ranks' gradients."""
    method = make(name)
    synchronize_batch_norm(method, torch.device("cpu"))
    own = slice(rank() * ROWS // world_size(), (rank() + 1) * ROWS // world_size())
    ids = torch.arange(ROWS)[own]
    out = method([x[own] for x in images(name)], torch.full_like(ids, -1), ids)
    out.loss.backward()
    method.after_backward()
    gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    mean = {n: all_reduce_sum(g) / world_size() for n, g in gradients.items()}
    parts = {n: all_reduce_sum(v) / world_size() for n, v in out.parts.items() if f"{n}_weight" in SIZED}
    state = {n: t for n, t in method.named_buffers() if n.startswith("queue.") and n != "queue.labels"}
    return Found(Result(all_reduce_sum(out.loss.detach()) / world_size(), mean), parts, state)


SIZED = {"neighbor_weight", "centroid_weight", "feature_weight"}


def all_computed() -> dict[str, Found]:
    return {name: computed(name) for name in SWITCHES}


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Found]]:
    return run_as_ranks(all_computed, 2, tmp_path_factory.mktemp("ranks"), ())


def assert_found(found: Found, wanted: Found) -> None:
    assert_same(found.result, wanted.result)
    assert found.parts.keys() == wanted.parts.keys()
    assert found.queue.keys() == wanted.queue.keys()
    for n, value in {**wanted.parts, **wanted.queue}.items():
        torch.testing.assert_close({**found.parts, **found.queue}[n], value, rtol=0, atol=1e-9, msg=n)


@pytest.mark.parametrize("name", SWITCHES)
def test_one_process_computes_the_formula(name: str) -> None:
    assert_found(computed(name), expected(name, 1))


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.slow
def test_two_ranks_compute_the_formula_of_the_whole_batch(on_two_ranks, name: str) -> None:
    wanted = expected(name, 2)
    for result in on_two_ranks:
        assert_found(result[name], wanted)
