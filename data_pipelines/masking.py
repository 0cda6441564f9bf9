"""Hides passwords and signatures of URLs in all that is printed, recorded or published.

Settings keep them, because the run needs them. Nothing else does.
"""

import re
from collections.abc import Mapping
from typing import Any

_MASK = "***"
_USER = re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/?#@'\"]+@")
_SECRET = re.compile(
    r"([?&](?:x-amz-[a-z-]+|x-goog-[a-z-]+|awsaccesskeyid|googleaccessid|signature|sig|se|sp|sv|sr|token|access_token|"
    r"auth|key|api_?key|password|secret|policy|key-pair-id|expires)=)[^&\s'\"#<>]+",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """Return a text in which the user and password of each URL, and secret values of its query, are replaced."""
    if "://" not in text:
        return text
    return _SECRET.sub(rf"\1{_MASK}", _USER.sub(rf"\1{_MASK}@", text))


def masked_values(value: Any) -> Any:
    """Return nested values with every text masked."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: masked_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(masked_values(inner) for inner in value)
    return value
