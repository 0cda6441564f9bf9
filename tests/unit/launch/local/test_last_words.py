from pathlib import Path

import pytest

from launch.local.last_words import TAIL_BYTES, TAIL_LINES, last_lines, last_words
from trainer.runs.end_reasons import ExitCode

CUDA = "torch.AcceleratorError: CUDA error: assert"
OUTPUT = ["loading", "error: 9 samples could not be used: verify the set", "KeyError: 'a'", "", "  "]


@pytest.mark.parametrize(
    ("code", "lines", "said"),
    [
        (ExitCode.USER_ERROR, OUTPUT, OUTPUT[1]),
        (ExitCode.USER_ERROR, ["  killed by hand"], "killed by hand"),
        (1, OUTPUT, "KeyError: 'a'"),
        (
            1,
            [
                "  torch.AcceleratorError: CUDA error: assert",
                "",
                "Compile with `X` to debug.",
                "[W] not called",
            ],
            CUDA,
        ),
        (7, ["gone", "for good"], "for good"),
        (1, ["", " "], ""),
        (1, [], ""),
    ],
)
def test_an_error_for_the_user_or_else_the_last_line_tells_why(
    code: int, lines: list[str], said: str
) -> None:
    assert last_words(lines, code) == said


def test_the_last_lines_of_a_long_log_are_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "rank_1.log"
    assert last_lines(log) == []
    log.write_bytes(b"\xff" * (3 * TAIL_BYTES) + b"\n" + b"\n".join(b"%d" % n for n in range(100)))
    assert last_lines(log) == [str(n) for n in range(100 - TAIL_LINES, 100)]
    assert last_lines(log, 2) == ["98", "99"]
