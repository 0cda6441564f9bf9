import subprocess
import sys

LOOK = """
import sys
from trainer.distributed.process_group import import_deepspeed
import_deepspeed()
assert "deepspeed" in sys.modules
print([name for name in ("mlflow", "pyarrow") if name in sys.modules])
import mlflow  # it is installed
"""


def test_the_import_of_deepspeed_leaves_out_what_would_keep_ranks_from_being_forks() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
