"""Is a killed and resumed run bitwise that of an undisturbed one? For both executors, with and without accumulation.

    python benchmarks/resume.py [--kills 5] [--seed S]

Each case trains the digits recipe on 2 processes twice, the second time killed by SIGKILL at random moments
(`all4one verify-resume`). Exits with 1 where anything differs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

CASES = [(executor, accumulation) for executor in ("opencv", "dali") for accumulation in (1, 2)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, help="of the kills; drawn and printed for each case if not given")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    all4one = [sys.executable, "-m", "launch.cli"]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*all4one, "data", "build", "digits", folder], check=True, stdout=subprocess.DEVNULL)
        for executor, accumulation in CASES:
            print(f"\n{executor}, accumulation {accumulation}", flush=True)
            command = [
                *all4one,
                "verify-resume",
                "digits_demo",
                f"data.train={folder}/train",
                f"data.validation={folder}/validation",
                f"data.executor={executor}",
                f"train.grad_accum_steps={accumulation}",
                "train.epochs=4",
                "optim.warmup_epochs=1",
                "checkpoint.every_steps=4",
                "eval.every_epochs=2",
                "method.transformer_dropout=0.1",
                "--kills",
                str(args.kills),
            ]
            command += ["--seed", str(args.seed)] if args.seed is not None else []
            code = subprocess.run(command, check=False).returncode
            results.append(
                {"executor": executor, "accumulation": accumulation, "kills": args.kills, "equal": code == 0}
            )
    print()
    for result in results:
        print(" ".join(f"{key}={value}" for key, value in result.items()))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return int(not all(result["equal"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
