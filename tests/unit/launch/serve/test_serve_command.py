"""`all4one serve` as a user starts and stops it."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command, run
from served_runs import wait_for_server, write_run

HEAVY = ("torch", "deepspeed", "cv2", "nvidia", "sklearn", "timm", "matplotlib")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.mark.parametrize("number", [0, 1])
def test_it_tells_where_the_page_is_and_ends_with_ctrl_c(tmp_path: Path, number: int) -> None:
    for name in range(number):
        write_run(tmp_path, f"run{name}")
    port = free_port()
    command = Command("serve", tmp_path, "--port", port)
    wait_for_server(port, command)
    command.send_signal(2)
    out, _ = command.communicate(60)
    assert command.returncode == 0, out
    first, second, *end = (line for line in out.splitlines() if line)
    assert (
        first
        == f"{number} run{'s' * (number == 0)} in {tmp_path}: http://127.0.0.1:{port}/  (stop with Ctrl-C)"
    )
    assert f"ssh -L {port}:127.0.0.1:{port} USER@{socket.gethostname()}" in second
    how = [
        f"`all4one train RECIPE run.folder={tmp_path}` makes a run, and the page shows it as soon as it begins"
    ]
    assert end == [*(how if number == 0 else []), "stopped"]


def test_what_cannot_be_served_is_said_in_one_message(tmp_path: Path) -> None:
    nowhere = run("serve", tmp_path / "nowhere")
    assert (nowhere.code, "this folder does not exist" in nowhere.words) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = run("serve", tmp_path, "--port", taken.getsockname()[1])
    assert (refused.code, "--port 0" in refused.words, "Traceback" in refused.out) == (2, True, False)
    assert run("serve", tmp_path, "--port", 70_000).code == 2


def test_serving_loads_nothing_heavy(tmp_path: Path) -> None:
    write_run(tmp_path, "one")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from launch.serve.server import LiveServer\n"
        f"server = LiveServer(Path({str(tmp_path)!r}), 0)\n"
        "for place in ('runs', 'run', 'metrics', 'compare'):\n"
        "    assert server.app.answer(f'api/{place}', {'run': ['one']}) is not None\n"
        f"loaded = sorted(m for m in {HEAVY!r} if m in sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
