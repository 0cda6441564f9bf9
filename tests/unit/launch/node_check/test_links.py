"""The link of two nodes, between real processes on this machine."""

import subprocess
import sys

import pytest

from data_pipelines.errors import UserError
from launch.node_check.links import pair_rate

MEASURE = (
    "import sys; from launch.node_check.links import pair_rate; "
    "print(pair_rate('link-of-a-test', '127.0.0.1', int(sys.argv[1]), seconds=0.1, patience=60))"
)


def test_both_ends_of_a_link_measure_about_the_same() -> None:
    ends = [
        subprocess.Popen([sys.executable, "-c", MEASURE, str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    one, other = (float(end.communicate(timeout=120)[0]) for end in ends)
    assert one > 0
    assert one == pytest.approx(other, rel=0.5)


def test_a_partner_that_does_not_come_is_an_error() -> None:
    with pytest.raises(UserError):
        pair_rate("nobody-comes", "127.0.0.1", 1, patience=0.5)
