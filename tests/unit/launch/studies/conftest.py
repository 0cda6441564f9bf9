"""A study whose runs were trained in another place."""

from pathlib import Path

import pytest
from studied_runs import OTHER_SETS, sit, study


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The folder of another place with the nine runs of the file and the first further seed."""
    assert len(sit(study(), tmp_path / "there", [], 11, OTHER_SETS, data="f" * 64)) == 11
    return tmp_path / "there"
