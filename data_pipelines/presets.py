"""Published augmentations by name, such as `views: byol` in a recipe.

Values that a preset does not set are the defaults of `ViewSettings`: crops of 8 to 100 % of the image, flips at 0.5,
color jitter of 0.4, 0.4, 0.2 and 0.1 at 0.8, gray at 0.2.
"""

import difflib
from collections.abc import Mapping
from typing import Any

_BLUR_AND_SOLARIZE = ({"blur_prob": 1.0}, {"blur_prob": 0.1, "solarize_prob": 0.2})

PRESETS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    # All4One (Estepa et al., ICCV 2023), its recipes for CIFAR and for ImageNet
    "all4one_cifar": ({"size": 32}, {"size": 32, "solarize_prob": 0.2}),
    "all4one_imagenet": _BLUR_AND_SOLARIZE,
    # BYOL (Grill et al., NeurIPS 2020), table 6; Barlow Twins (Zbontar et al., ICML 2021) uses the same
    "byol": _BLUR_AND_SOLARIZE,
    "barlow": _BLUR_AND_SOLARIZE,
    # only crop and flip
    "weak": ({"color_jitter_prob": 0.0, "grayscale_prob": 0.0},) * 2,
}
"""Settings that the views of each preset change."""


def expand(views: Any) -> Any:
    """Expand presets and counts in a list of views.

    Args:
        views: name of a preset, or a list. An entry with `preset: NAME` is replaced by the views of that preset, with
            the other keys of the entry over them. An entry with `count: N` is repeated N times.

    Raises:
        ValueError: there is no such preset (the message names the nearest), or a count is not a positive whole number.
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
        + (f"did you mean {near[0]}?" if near else f"available presets: {', '.join(PRESETS)}")
    )
