"""Published augmentations by name, so that a recipe may say `views: byol` in place of every rate and strength.

Values that are not given are the defaults of `ViewSettings`: crops of 8 to 100 % of the image, flips at 0.5, color
jitter of 0.4, 0.4, 0.2 and 0.1 at 0.8, gray at 0.2.
"""

import difflib
from collections.abc import Mapping
from typing import Any

_BLUR_AND_SOLARIZE = ({"blur_prob": 1.0}, {"blur_prob": 0.1, "solarize_prob": 0.2})

PRESETS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    # All4One (Estepa et al., ICCV 2023), its recipes for CIFAR and for ImageNet
    "all4one_cifar": ({"size": 32}, {"size": 32, "solarize_prob": 0.2}),
    "all4one_imagenet": _BLUR_AND_SOLARIZE,
    # BYOL (Grill et al., NeurIPS 2020), table 6; Barlow Twins (Zbontar et al., ICML 2021) takes the same
    "byol": _BLUR_AND_SOLARIZE,
    "barlow": _BLUR_AND_SOLARIZE,
    # crop and flip alone
    "weak": ({"color_jitter_prob": 0.0, "grayscale_prob": 0.0},) * 2,
}
"""What the views of each preset say over the defaults."""


def expand(views: Any) -> Any:
    """A list of views with presets and counts written out.

    Args:
        views: a preset's name, or a list. An entry of the list with `preset: NAME` stands for the views of that preset,
            with what else the entry says over them; one with `count: N` stands for N of its views.

    Raises:
        ValueError: there is no such preset (the nearest is named), or a count is not a positive whole number.
    """
    if isinstance(views, str):
        views = [{"preset": views}]
    if not isinstance(views, list | tuple):
        return views
    return [view for entry in views for view in (_entry(entry) if isinstance(entry, Mapping) else [entry])]


def _entry(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    own = {key: value for key, value in entry.items() if key not in ("preset", "count")}
    count = entry.get("count", 1)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"count must be a positive whole number, not {count!r}")
    views = _preset(str(entry["preset"])) if "preset" in entry else ({},)
    return [{**view, **own} for _ in range(count) for view in views]


def _preset(name: str) -> tuple[Mapping[str, Any], ...]:
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, n=1)
    raise ValueError(
        f"there is no preset {name!r}; "
        + (f"did you mean {near[0]}?" if near else f"there are {', '.join(PRESETS)}")
    )
