"""The main job on real input: two DeepSpeed processes, real shards, real checkpoints."""

import json
import math
import shutil
import signal
import time

import pytest
from tiny_runs import NO_EVALUATION


def test_a_run_learns_records_and_finishes(runs, straight, command) -> None:
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
    assert all(0 <= r["online_val_top1"] <= r["online_val_top5"] <= 1 for r in records if r["kind"] == "eval")
    ledger = runs.ledger(straight)
    start, ready, before, stepped, saved, after, end = ledger
    assert [(r["event"], r["step"]) for r in (before, stepped, after)] == [
        ("evaluated", 0),
        ("stepped", 1),
        ("evaluated", 14),
    ]
    assert start["last_recorded"] is None
    assert min(before["seconds"], after["seconds"], after["saving"]) > 0
    assert end["saving"] >= after["saving"]
    account = json.loads(command("status", runs.path(straight).path, "--json").out)["runs"][0]["goodput"]
    assert account["elapsed_seconds"] == pytest.approx(end["time"] - start["time"], abs=0.01)
    assert sum(account["seconds"].values()) == pytest.approx(account["elapsed_seconds"])
    assert account["seconds"]["evaluating"] == pytest.approx(before["seconds"] + after["seconds"], abs=0.01)
    assert 0 < account["fraction"] < 1
    assert (saved["event"], saved["step"]) == ("saved", 4)
    assert (start["event"], start["world_size"]) == ("start", 2)
    assert (ready["event"], ready["step"], ready["replayed"]) == ("ready", 0, 0)
    assert ready["bitwise_resume"] is True
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
    process = runs.start(*runs.arguments("terminated", NO_EVALUATION), "--nproc", 1)
    runs.wait_for_step("terminated", 3, process)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143, out
    assert runs.ledger("terminated")[-1]["reason"] == "terminated"


@pytest.mark.parametrize(
    ("executor", "accumulation", "precision", "batch_norm"),
    [("dali", 1, "bf16", "global"), ("opencv", 2, "fp32", "rank")],
)
def test_killed_at_random_moments_a_run_ends_bitwise_the_same(
    runs, command, executor: str, accumulation: int, precision: str, batch_norm: str
) -> None:
    overrides = [
        f"data.executor={executor}",
        f"train.grad_accum_steps={accumulation}",
        f"train.precision={precision}",
        f"parallel.batch_norm={batch_norm}",
        "method.transformer_dropout=0.1",
    ]
    common = [argument for argument in runs.common if not argument.startswith("run.folder")]
    result = command("verify-resume", *common, *overrides, "--kills", 2)
    assert result.code == 0, result.out
    assert "bitwise equal" in result.words, result.out
    assert "killed after step" in result.words, result.out
    for said in (
        "without interruption, then again with 2 kills",
        "run `straight`: step 14/14",
        "run `killed`: step 14/14",
    ):
        assert said in result.words


def test_a_checkpoint_by_the_clock_saves_the_work_of_a_killed_run(runs, straight) -> None:
    clock = ("checkpoint.every_steps=0", "checkpoint.every_epochs=0", "checkpoint.every_minutes=0.003")
    process = runs.start(*runs.arguments("by_the_clock", *clock), "--nproc", 2)
    deadline = time.monotonic() + 120
    while not (runs.path("by_the_clock").checkpoints / "latest").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    runs.kill(process)
    result = runs.resume("by_the_clock")
    assert result.code == 0, result.out
    assert "resuming from step_" in result.words
    runs.assert_same("by_the_clock", straight)


def test_the_output_of_a_finished_run_is_kept(runs, command, straight) -> None:
    result = command("logs", runs.path(straight).path)
    assert result.code == 0, result.out
    assert "step 14/14" in result.words
    assert "knn" in result.words


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
    assert "resuming from step_00000012" in result.words
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
