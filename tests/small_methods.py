"""Every method's settings at a size that steps in milliseconds."""

from typing import Any

from trainer.contrast.queue import QueueSettings
from trainer.methods import MethodSettings, available

QUEUE = QueueSettings(size=50)
_SIZES: dict[str, Any] = {
    "projector_hidden": 16,
    "predictor_hidden": 16,
    "embedding_dim": 8,
    "prototypes": 12,
    "queue": QUEUE,
}


def _small(settings: type[MethodSettings]) -> MethodSettings:
    return settings(**{name: size for name, size in _SIZES.items() if name in settings.model_fields})


SMALL: dict[str, MethodSettings] = {name: _small(settings) for name, settings in sorted(available().items())}
