"""How well `all4one profile` repeats itself on this machine.

    python benchmarks/profile_repeats.py [--profiles 3] [--steps 10] [--nproc 1] [--json FILE] [KEY=VALUE ...]

Profiles digits_demo several times, one after the other. Exits with 1 if the steps, or the peaks, of two profiles differ
by more than 5 %, if the parts of one are less than 95 % of its step, or if not all have the same verdict.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from launch.local.rank_processes import module_command

MOST_APART, LEAST_PARTS = 0.05, 0.95


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profiles", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command("data", "build", "digits", folder / "digits")
        sets = (f"data.train={folder}/digits/train", f"data.validation={folder}/digits/validation")
        for number in range(args.profiles):
            out = folder / str(number)
            options = ("--nproc", args.nproc, "--steps", args.steps, "--out", out)
            command("profile", "digits_demo", *sets, *args.overrides, *options)
            found.append(json.loads((out / "profile.json").read_text()))
            print(in_words(found[-1]), flush=True)
    apart = {name: differ([profile[name] for profile in found]) for name in ("step", "peak")}
    print(f"steps differ by {apart['step']:.1%}, peaks by {apart['peak']:.1%}")
    if args.json:
        args.json.write_text(json.dumps([in_numbers(profile) for profile in found], indent=1))
    verdicts = {profile["verdict"]["bound"] for profile in found}
    missed = max(apart.values()) > MOST_APART or min(map(parts, found)) < LEAST_PARTS or len(verdicts) > 1
    return int(missed)


def command(*arguments: object) -> None:
    """Run a command of `all4one` whose output matters only if it fails."""
    done = subprocess.run(
        module_command("launch.cli", *map(str, arguments)), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def differ(values: list[float]) -> float:
    """Return the largest difference as a fraction of the smallest value."""
    return max(values) / min(values) - 1


def parts(profile: dict[str, Any]) -> float:
    """Return the sum of the parts as a fraction of a step."""
    return float(sum(profile["parts"].values()) / profile["step"])


def in_numbers(profile: dict[str, Any]) -> dict[str, Any]:
    """Return what the figures are made of."""
    kept = ("step", "without_data", "overhead", "peak", "spread", "crowded", "device", "world_size")
    return {name: profile[name] for name in kept} | {
        "parts": parts(profile),
        "bound": profile["verdict"]["bound"],
    }


def in_words(profile: dict[str, Any]) -> str:
    """Return a profile as a line."""
    busy = ", too busy to tell" if "too busy" in profile["verdict"]["words"] else ""
    return (
        f"step {1000 * profile['step']:.1f} ms (±{profile['spread']['step']:.1%}), "
        f"while the loader rests {1000 * profile['without_data']:.1f} ms, "
        f"overhead {1000 * profile['overhead']:.1f} ms, peak {profile['peak'] / 1e12:.3f} TFLOP/s, "
        f"parts {parts(profile):.1%}, bound by {profile['verdict']['bound']}{busy} ({profile['device']})"
    )


if __name__ == "__main__":
    sys.exit(main())
