import subprocess
import sys

from launch.local.process_name import name_of_rank

NAMED = """
import pathlib, sys
from launch.local.process_name import name_process
name_process(sys.argv[1])
print(pathlib.Path("/proc/self/comm").read_text())
"""


def test_ranks_have_names_of_their_own_that_have_no_space_and_are_not_cut() -> None:
    assert name_of_rank(3) != name_of_rank(30)
    for rank in (0, 12, 9999):
        done = subprocess.run(
            [sys.executable, "-c", NAMED, name_of_rank(rank)], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == name_of_rank(rank)[:15]
        assert f"rank{rank}." in done.stdout
        assert " " not in name_of_rank(rank)
