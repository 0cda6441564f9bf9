"""Dry runs need a C compiler, which builds the stand-in for the CUDA runtime."""

from pathlib import Path

import pytest

from trainer.profiling.dry_run.library import compiler


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if compiler() is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="a dry run needs a C compiler"))
