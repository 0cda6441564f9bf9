"""Imports of torch and of what builds on it, without Python's garbage collector."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector during imports, and exempt from it all objects that exist afterward.

    Modules live as long as their process. The collector would visit their million objects several times during the
    imports, and again in each full collection of the training. In a fork, each visit also copies memory that the fork
    shares with its parent.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
