import contextlib
import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tiny_runs import NO_EVALUATION


@pytest.mark.parametrize("small_disk", ["64m"], indirect=True)
def test_a_full_disk_keeps_the_last_good_checkpoint_and_ends_with_an_error(runs, small_disk: Path) -> None:
    there = type(runs)(small_disk, runs.digits)
    process = there.start(*there.arguments("full", NO_EVALUATION), "--nproc", 1)
    there.wait_for_step("full", 5, process)
    with (small_disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2, out
    assert "No space left on device" in out
    assert "Traceback" not in out
    assert list(there.path("full").checkpoints.glob("step_*")), out
    (small_disk / "filler").unlink()
    result = there.resume("full", nproc=1)
    assert result.code == 0, result.out


def test_data_that_goes_bad_stops_the_run_with_a_checkpoint_and_mended_it_goes_on(
    runs, straight, digits, tmp_path: Path
) -> None:
    rotten = tmp_path / "rotten"
    shutil.copytree(digits / "train", rotten)
    shard = rotten / "shard-000000.tar"
    good = shard.read_bytes()
    index = np.load(rotten / "index.npy")
    rows = index[index["offset"] > len(good) * 2 // 3]
    bad = bytearray(good)
    for row in rows[:: len(rows) // 40]:
        bad[row["offset"] + row["size"] // 2] ^= 0xFF
    shard.write_bytes(bad)
    result = runs.train("rotten", f"data.train={rotten}", NO_EVALUATION)
    assert result.code == 2, result.out
    assert "samples could not be used" in result.words
    assert "data verify" in result.words
    assert "Traceback" not in result.out
    assert runs.path("rotten").quarantine.read_text().count("shard-000000.tar") >= 8
    (end,) = (r for r in runs.ledger("rotten") if r["event"] == "end")
    assert end["reason"] == "error"
    shard.write_bytes(good)
    newest = max(runs.path("rotten").checkpoints.glob("step_*"))
    assert json.loads((newest / "state.json").read_text())["step"] > 0
    again = runs.resume("rotten")
    assert again.code == 0, again.out
    assert f"resuming from {newest.name}" in again.words


def test_ctrl_c_in_the_first_evaluation_ends_quietly_and_the_run_goes_on(runs, straight) -> None:
    process = runs.start(*runs.arguments("early", "eval.batch=2"), "--nproc", 2)
    metrics = runs.path("early").metrics  # made just before the evaluation of the untrained backbone
    while not metrics.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert runs.ledger("early")[-1]["reason"] == "interrupted"
    result = runs.resume("early", "eval.batch=256")
    assert result.code == 0, result.out
    runs.assert_same("early", straight)


def test_export_and_eval_agree_on_a_backbone(runs, straight, command, tmp_path: Path) -> None:
    folder = runs.path(straight).path
    evaluated = command("eval", folder, "--knn", "--linear-fast")
    assert evaluated.code == 0, evaluated.out
    results = json.loads((folder / "eval.json").read_text())["backbones"]
    assert set(results) == {"online", "momentum"}
    recorded = [r for r in runs.metrics(straight) if r["kind"] == "eval"][-1]
    assert results["online"]["knn_20"]["top1"] == pytest.approx(recorded["knn_online"], abs=1e-6)
    assert results["online"]["linear_fast"]["top1"] > 0.5
    beside = results["online"]["online_classifier"]
    assert beside["top1"] == pytest.approx(recorded["online_val_top1"], abs=1e-6)
    assert beside["top5"] == pytest.approx(recorded["online_val_top5"], abs=1e-6)
    assert "online_classifier" not in results["momentum"]
    options = ("--linear", "--epochs", 2, "--batch", 64, "--learning-rates", "1,10")
    tuned = ("--finetune", "10%", "--finetune-epochs", 4, "--finetune-rates", "0.2")
    trained = command("eval", folder, *options, *tuned, "--nproc", 2)
    assert trained.code == 0, trained.out
    added = json.loads((folder / "eval.json").read_text())["backbones"]
    for name, evaluated_before in results.items():
        assert {evaluator: added[name].pop(evaluator) for evaluator in evaluated_before} == evaluated_before
        assert list(added[name]) == ["linear", "finetune_10%"]
        assert added[name]["linear"]["epochs"] == 2
        assert (added[name]["finetune_10%"]["share"], added[name]["finetune_10%"]["epochs"]) == (0.1, 4)
    assert added["online"]["linear"]["top1"] > 0.15  # after 42 steps; chance is a tenth
    assert not list(folder.glob("*.safetensors"))

    file = tmp_path / "backbone.safetensors"
    assert command("export", folder, "--out", file).code == 0
    with safe_open(str(file), framework="pt") as opened:
        assert "layer1.0.conv1.weight" in opened.keys()  # noqa: SIM118
    again = command("eval", file, "--knn", "--out", tmp_path / "eval.json", *tuned, "--batch", 64)
    assert again.code == 0, again.out
    exported = json.loads((tmp_path / "eval.json").read_text())["backbones"]["exported"]
    assert exported["knn_20"] == results["online"]["knn_20"]
    by_two, alone = added["online"]["finetune_10%"], exported["finetune_10%"]
    for fact in ("training_images", "held_out_images", "learning_rate"):
        assert alone[fact] == by_two[fact]
    assert alone["top1"] == pytest.approx(
        by_two["top1"], abs=0.1
    )  # what float32 makes of rounding in 8 steps
    one = command("eval", folder, "--knn", "--knn-k", 5, "--backbone", "momentum")
    assert one.code == 0, one.out
    kept = json.loads((folder / "eval.json").read_text())["backbones"]
    assert "knn_5" in kept["momentum"]
    assert "knn_5" not in kept["online"]  # whose results stay: they are of the same weights
    assert kept["online"]["knn_20"] == results["online"]["knn_20"]
    absent = command("eval", file, "--backbone", "momentum")
    assert absent.code == 2
    assert "has no momentum backbone" in absent.words
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(file.read_bytes()[:1000])
    refused = command("eval", broken)
    assert refused.code == 2
    assert "not a file of `all4one export`" in refused.words
