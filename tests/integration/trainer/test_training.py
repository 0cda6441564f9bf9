"""The main job on real input: two DeepSpeed processes, real shards, real checkpoints."""

import contextlib
import json
import math
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open


def test_a_run_learns_records_and_finishes(runs, straight) -> None:
    records = runs.metrics(straight)
    train = [r for r in records if r["kind"] == "train"]
    assert [r["step"] for r in train] == list(range(1, 15))
    assert {
        "loss",
        "neighbor",
        "centroid",
        "feature",
        "z_std",
        "gradient_norm",
        "lr",
        "online_top1",
    } <= train[0].keys()
    assert all(math.isfinite(r["loss"]) for r in train)
    health = {"z_rank", "features_rank", "features_std", "neighbor_cosine", "neighbor_age", "ema_distance"}
    assert [r["step"] for r in train if health <= r.keys()] == [7, 14]
    assert sum(train[6][f"{name}_share"] for name in ("neighbor", "centroid", "feature")) == pytest.approx(1)
    assert 1 < train[13]["z_rank"] <= 16
    assert 0 < train[13]["ema_distance"] < 1
    assert train[-1]["online_loss"] < train[0]["online_loss"]
    assert [r["step"] for r in records if r["kind"] == "eval"] == [0, 14]
    assert all(
        0.1 < r["knn_online"] <= 1 and 0.1 < r["knn_momentum"] <= 1 for r in records if r["kind"] == "eval"
    )
    start, ready, end = runs.ledger(straight)
    assert (start["event"], start["world_size"]) == ("start", 2)
    assert (ready["event"], ready["step"], ready["replayed"]) == ("ready", 0, 0)
    assert (end["event"], end["reason"], end["step"]) == ("end", "finished", 14)


def test_checkpoints_hold_named_tensors_and_are_kept_by_the_rule(runs, straight) -> None:
    folders = sorted(p.name for p in runs.path(straight).checkpoints.glob("step_*"))
    assert folders == ["step_00000008", "step_00000012", "step_00000014"]
    tensors = runs.tensors(straight)
    for name in (
        "backbone.layer1.0.conv1.weight",
        "momentum.backbone.layer1.0.conv1.weight",
        "queue.rows",
        "queue.head",
        "optimizer/exp_avg/backbone.layer1.0.conv1.weight",
        "backbone.bn1.running_mean",
        "classifier.weight",
    ):
        assert name in tensors, name
    state = json.loads((runs.path(straight).checkpoints / "step_00000014" / "state.json").read_text())
    assert (state["epoch"], state["seed"], state["world_size"]) == (0, 0, 2)
    assert state["position"] == 14 * 64


def test_a_finished_run_is_not_trained_again(runs, straight) -> None:
    result = runs.resume(straight)
    assert result.code == 0
    assert "is finished" in result.words


def test_ctrl_c_saves_the_step_and_resume_ends_bitwise_where_an_undisturbed_run_does(runs, straight) -> None:
    process = runs.start(*runs.arguments("interrupted"), "--nproc", 2)
    runs.wait_for_step("interrupted", 5, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "all4one resume" in out
    end = runs.ledger("interrupted")[-1]
    assert end["reason"] == "interrupted"
    assert f"checkpoint of step {end['step']} is saved" in " ".join(out.split())
    assert (runs.path("interrupted").checkpoints / f"step_{end['step']:08d}").is_dir()
    result = runs.resume("interrupted")
    assert result.code == 0, result.out
    runs.assert_same("interrupted", straight)


def test_sigterm_saves_too(runs) -> None:
    process = runs.start(*runs.arguments("terminated"), "--nproc", 1)
    runs.wait_for_step("terminated", 3, process)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143, out
    assert runs.ledger("terminated")[-1]["reason"] == "terminated"


@pytest.mark.parametrize(
    ("executor", "accumulation", "precision"), [("dali", 1, "bf16"), ("opencv", 2, "fp32")]
)
def test_killed_at_random_moments_a_run_ends_bitwise_the_same(
    runs, command, executor: str, accumulation: int, precision: str
) -> None:
    overrides = [
        f"data.executor={executor}",
        f"train.grad_accum_steps={accumulation}",
        f"train.precision={precision}",
        "method.transformer_dropout=0.1",
    ]
    common = [argument for argument in runs.common if not argument.startswith("run.folder")]
    result = command("verify-resume", *common, *overrides, "--kills", 2)
    assert result.code == 0, result.out
    assert "bitwise equal" in result.words, result.out
    assert "killed after step" in result.words, result.out


def test_a_flipped_byte_is_passed_over_and_said(runs, straight) -> None:
    shutil.copytree(runs.path(straight).path, runs.path("flipped").path)
    (runs.path("flipped").path / "ledger.jsonl").unlink()
    file = runs.path("flipped").checkpoints / "step_00000014" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    result = runs.resume("flipped", "checkpoint.keep_last=5")
    assert result.code == 0, result.out
    assert "skipped step_00000014" in result.words
    assert "going on from step_00000012" in result.words
    runs.assert_same("flipped", straight)


def test_resume_takes_another_world_size_and_refuses_another_meaning_or_set(runs, straight, digits) -> None:
    name = "elastic"
    shutil.copytree(runs.path(straight).path, runs.path(name).path)
    (runs.path(name).path / "ledger.jsonl").unlink()
    shutil.rmtree(runs.path(name).checkpoints / "step_00000014")
    (runs.path(name).checkpoints / "latest").write_text("step_00000012\n")
    refused = runs.resume(name, "optim.lr=0.1")
    assert refused.code == 2
    assert "optim.lr: 0.008 -> 0.1" in refused.words
    other = runs.resume(name, f"data.train={digits}/validation")
    assert other.code == 2
    assert "not the one that the checkpoint was made with" in other.words
    back = runs.resume(name, f"data.train={digits}/train", nproc=1)
    assert back.code == 0, back.out
    assert (
        json.loads((runs.path(name).checkpoints / "step_00000014" / "state.json").read_text())["world_size"]
        == 1
    )
    losses = [[r["loss"] for r in runs.metrics(n) if r["kind"] == "train"] for n in (name, straight)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_without_rounding_the_number_of_processes_changes_nothing(runs) -> None:
    names = {1: "alone", 2: "together"}
    for nproc, name in names.items():
        result = runs.train(name, "train.precision=fp64", nproc=nproc)
        assert result.code == 0, result.out
    one, two = (runs.tensors(name) for name in names.values())
    assert one["backbone.conv1.weight"].dtype == torch.float64
    for name, tensor in one.items():
        if tensor.is_floating_point():
            assert (tensor - two[name]).norm() <= 1e-6 * tensor.norm() + 1e-10, name
        else:
            assert torch.equal(tensor, two[name]), name


def test_two_processes_cannot_train_one_run(runs) -> None:
    # longer than the second command takes to come up, on however busy a machine
    long = ("train.epochs=10000", "train.max_steps=100000")
    process = runs.start(*runs.arguments("held", *long), "--nproc", 1)
    try:
        runs.wait_for_step("held", 1, process)
        result = runs.resume("held", nproc=1)
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert result.code == 2
    assert "is being trained by" in result.words
    assert "Traceback" not in result.out


def test_a_killed_launcher_leaves_no_rank_behind(runs) -> None:
    process = runs.start(*runs.arguments("orphans"), "--nproc", 2)
    runs.wait_for_step("orphans", 1, process)
    assert ranks_of(runs.path("orphans").path)
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 20  # the kernel takes a moment to end them
    while ranks_of(runs.path("orphans").path):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ranks_of(run: Path) -> list[str]:
    found = subprocess.run(
        ["pgrep", "-f", f"launch.local.worker {run}"], capture_output=True, text=True, check=False
    )
    return [pid for pid in found.stdout.split() if not is_zombie(int(pid))]


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("small_disk", ["64m"], indirect=True)
def test_a_full_disk_keeps_the_last_good_checkpoint_and_ends_with_an_error(runs, small_disk: Path) -> None:
    there = type(runs)(small_disk, runs.digits)
    process = there.start(*there.arguments("full"), "--nproc", 1)
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
    result = runs.train("rotten", f"data.train={rotten}")
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
    assert f"going on from {newest.name}" in again.words


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
    judged = command("eval", folder, "--knn", "--linear-fast")
    assert judged.code == 0, judged.out
    results = json.loads((folder / "eval.json").read_text())["backbones"]
    assert set(results) == {"online", "momentum"}
    recorded = [r for r in runs.metrics(straight) if r["kind"] == "eval"][-1]
    assert results["online"]["knn_20"]["top1"] == pytest.approx(recorded["knn_online"], abs=1e-6)
    assert results["online"]["linear_fast"]["top1"] > 0.5
    options = ("--linear", "--epochs", 2, "--batch", 64, "--learning-rates", "1,10")
    tuned = ("--finetune", "10%", "--finetune-epochs", 4, "--finetune-rates", "0.2")
    trained = command("eval", folder, *options, *tuned, "--nproc", 2)
    assert trained.code == 0, trained.out
    added = json.loads((folder / "eval.json").read_text())["backbones"]
    for name, judged_before in results.items():
        assert {judge: added[name].pop(judge) for judge in judged_before} == judged_before
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
