"""Parts of a page whose files may be damaged.

The page reads settings without their schema, so any value may have a wrong type or size.
"""

from collections.abc import Callable
from typing import TypeVar

Part = TypeVar("Part")
Other = TypeVar("Other")

DAMAGE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What code raises that meets a value of a wrong type or size."""


def unless_damaged(make: Callable[[], Part], otherwise: Other) -> Part | Other:
    """Return a part of a page. Damaged values replace this part, and no other one."""
    try:
        return make()
    except DAMAGE:
        return otherwise
