"""Hides passwords and signatures of URLs in all that is printed, recorded or published.

Settings keep them, because the run needs them. Nothing else does.
"""

import re
from collections.abc import Mapping
from typing import Any

_MASK = "***"
_CONTAINER_SCHEMES = frozenset({"abfs", "abfss", "wasb", "wasbs"})
"""Schemes of Azure in which the text before `@` names a container, unless it has a colon."""
# A password may hold `@` itself: the host begins after the last one.
_USER = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]*)://([^\s/?#'\"]+)@")
_SECRET_ENDS = (
    "secret|token|passw(?:or)?d|passphrase|pwd|signature|credentials?|authorization|"
    "(?:api|access|account|private|secret)[_-]?key|(?:access|session)(?:[_-]?key)?[_-]?id"
)
"""What the name of a parameter ends with if its value is secret, as in `client_secret` and `AWSAccessKeyId`."""
_SECRET_NAMES = (
    # Signed URLs of S3, Google Cloud Storage, Azure, Alibaba and Tencent.
    "x-(?:amz|goog|ms|oss|cos)-[a-z-]+|"
    # Also those of CloudFront.
    "auth|key|pass|sas|jwt|bearer|session|policy|key-pair-id|expires|"
    # Shared access signatures of Azure.
    "sig|s[teivrps]|srt|spr|sip|sdd|ses|scid|skoid|sktid|skt|ske|sks|skv|saoid|suoid"
)
_SECRET = re.compile(rf"([?&#;](?:[\w.-]*(?:{_SECRET_ENDS})|{_SECRET_NAMES})=)[^&\s'\"#<>]+", re.IGNORECASE)


def masked(text: str) -> str:
    """Return a text in which the user and password of each URL, and secret values of its query, are replaced."""
    if "://" not in text:
        return text
    return _SECRET.sub(rf"\1{_MASK}", _USER.sub(_without_user, text))


def _without_user(found: re.Match[str]) -> str:
    scheme, user = found[1], found[2]
    if scheme.lower() in _CONTAINER_SCHEMES and ":" not in user:
        return found[0]
    return f"{scheme}://{_MASK}@"


def masked_values(value: Any) -> Any:
    """Return nested values with every text masked."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: masked_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(masked_values(inner) for inner in value)
    return value
