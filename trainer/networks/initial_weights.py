"""Initial weights from other projects: tensors of a file are matched to the backbone by name and shape.

Checkpoints use different prefixes for the same weights (`backbone.`, `module.encoder_q.` …). The prefix with the most
matching names and shapes is used.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data_pipelines.errors import UserError
from trainer.networks.backbones import Backbone, BackboneSettings, build_backbone
from trainer.networks.hub_weights import local_weights
from trainer.networks.weight_files import read_weights

SHOWN = 5
"""Number of names of each kind that a report lists."""


class InitialWeights(NamedTuple):
    """The weights that a file has for a backbone."""

    tensors: dict[str, Tensor]
    """Tensors by the backbone's names."""
    report: str
    """How many tensors match and which do not, as text for the user."""


@dataclass(frozen=True)
class Place:
    """The location of the backbone's tensors in a file."""

    tensors: Mapping[str, Tensor]
    """One group of the file's tensors."""
    group: str
    """Key of the group in the file. Empty: the file has only one group."""
    prefix: str
    """Prefix of each name."""
    spelling: Mapping[str, str]
    """The backbone's names → the names after the prefix."""
    matched: int
    """Number of the backbone's tensors that are present with their shape."""

    def name(self, own: str) -> str:
        """Return the file's name of a tensor of the backbone."""
        return self.prefix + self.spelling[own]

    def __str__(self) -> str:
        parts = [f"under the key {self.group}"] if self.group else []
        parts += [f"with the prefix {self.prefix}"] if self.prefix else []
        return " ".join(parts) or "under the same names"


def read_initial_weights(settings: BackboneSettings, image_size: int) -> InitialWeights:
    """Find the backbone's weights in `settings.init`: a file, or a repository on the hub, which is downloaded.

    Args:
        settings: settings of the backbone, with `init`.
        image_size: side of its images, in pixels.

    Raises:
        UserError: the repository cannot be downloaded, the file cannot be read without running code from it, it has
            less than half of the backbone's tensors, or it has less than all of them and `settings.init_partial` is
            not set.
    """
    assert settings.init is not None
    path, shown = local_weights(settings.init)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        backbone = build_backbone(settings.drawn(), image_size)
    own = backbone.state_dict()
    groups = read_weights(path)
    places = [place for group, tensors in groups.items() for place in _places(backbone, own, group, tensors)]
    best = max(places, key=lambda place: place.matched, default=None)  # the first in the file wins a tie
    if best is None or 2 * best.matched < len(_needed(own)):
        raise _another_network(shown, own, groups, best.matched if best else 0)
    tensors = {n: best.tensors[best.name(n)] for n in own if _fits(best, n, own)}
    report, whole = _report(
        shown, own, best, [p for p in places if p.matched == best.matched and p is not best]
    )
    if not whole and not settings.init_partial:
        raise UserError(
            report,
            where="backbone.init",
            fix="set backbone.name, stem and width and the size of the views to those of the file, or set "
            "backbone.init_partial=true to initialize the other tensors randomly",
        )
    return InitialWeights(tensors, f"backbone.init: {report}")


def _places(
    backbone: Backbone, own: Mapping[str, Tensor], group: str, tensors: Mapping[str, Tensor]
) -> Iterator[Place]:
    """Yield every prefix of a group with matching tensors of the backbone, in the order of the file."""
    needed = _needed(own)
    for spelling, sure in ((_own_names(own), True), (_by_number(backbone, own), False)):
        known = {spelling[name]: own[name].shape for name in needed if name in spelling}
        votes: Counter[str] = Counter()
        for name, tensor in tensors.items():
            for start in [0, *(at + 1 for at, letter in enumerate(name) if letter == ".")]:
                if known.get(name[start:]) == tensor.shape:
                    votes[name[:start]] += 1
        for prefix, matched in votes.items():
            # numbers say little about the layers, so a file with numbered names must match completely
            if sure or matched == len(needed):
                yield Place(tensors, group, prefix, spelling, matched)


def _own_names(own: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: name for name in own}


def _by_number(backbone: nn.Module, own: Mapping[str, Tensor]) -> dict[str, str]:
    """Return names as in `nn.Sequential(*backbone.children())`: `layer1.0.conv1.weight` becomes `4.0.conv1.weight`."""
    numbers = {child: str(number) for number, (child, _) in enumerate(backbone.named_children())}
    parts = {name: name.partition(".") for name in own}
    return {name: f"{numbers[c]}.{rest}" for name, (c, _, rest) in parts.items() if c in numbers}


def _needed(own: Mapping[str, Tensor]) -> list[str]:
    return [name for name in own if not _is_counter(name)]


def _is_counter(name: str) -> bool:
    """Return whether a tensor only counts batches. Older files lack these tensors, and nothing uses them."""
    return name.endswith("num_batches_tracked")


def _fits(place: Place, name: str, own: Mapping[str, Tensor]) -> bool:
    found = place.tensors.get(place.name(name))
    return found is not None and found.shape == own[name].shape


def _report(shown: str, own: Mapping[str, Tensor], best: Place, others: list[Place]) -> tuple[str, bool]:
    """Describe which tensors match and which do not, and return whether all match."""
    needed = _needed(own)
    shapes = {n: best.tensors[best.name(n)].shape for n in needed if best.name(n) in best.tensors}
    missing = [name for name in needed if name not in shapes]
    other = [
        f"{name} {list(shape)} instead of {list(own[name].shape)}"
        for name, shape in shapes.items()
        if shape != own[name].shape
    ]
    used = {best.name(name) for name in own}
    unused = Counter(
        name.removeprefix(best.prefix).partition(".")[0]
        if name.startswith(best.prefix)
        else name.partition(".")[0]
        for name in best.tensors
        if name not in used and not _is_counter(name)
    )
    lines = [f"{best.matched} of {len(needed)} tensors of the backbone match those of {shown} {best}"]
    lines += [f"  missing in the file: {_some(missing)}"] if missing else []
    lines += [f"  different shape in the file: {_some(other)}"] if other else []
    lines += (
        [f"  not used: {_some([f'{name} ({count})' for name, count in unused.items()])}"] if unused else []
    )
    lines += [f"  also matching: {_some([str(place) for place in others])}"] if others else []
    return "\n".join(lines), not missing and not other


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _another_network(
    shown: str, own: Mapping[str, Tensor], groups: Mapping[str, Mapping[str, Tensor]], matched: int
) -> UserError:
    largest = max(groups.values(), key=len, default={})
    theirs = (
        f"its tensors have names such as {_some(list(largest))}"
        if largest
        else "it contains no named tensors"
    )
    return UserError(
        f"contains another network: {matched} of {len(_needed(own))} tensors of the backbone match; {theirs}; the "
        f"backbone's have names such as {_some(list(own))}",
        where=shown,
        fix="set backbone.name and backbone.width to those of the file",
    )
