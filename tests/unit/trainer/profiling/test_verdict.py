from typing import Any

import pytest

from trainer.config.schema import Config
from trainer.profiling.instruments import PARTS
from trainer.profiling.profile_record import Profile
from trainer.profiling.verdict import COMPUTE, DATA, LOADER, MESSAGES, OVERHEAD, UPDATE, Verdict, find_verdict


def measured(parts: dict[str, float], **changed: Any) -> Profile:
    """A profile of a step that has these parts and nothing else."""
    step, beside = sum(parts.values()), ("data wait", "loader's cores")
    values: dict[str, Any] = {
        "world_size": 2,
        "global_batch": 256,
        "precision": "bf16",
        "device": "CPU, 1 threads per process",
        "step": step,
        "parts": dict.fromkeys(PARTS, 0.0) | parts,
        "without_data": step - sum(parts.get(n, 0.0) for n in beside),
        "without_messages": step - sum(parts.get(n, 0.0) for n in (*beside, "gathers", "gradient reduction")),
        "loader": step,
        "transfer": 0.0,
        "checkpoint": 0.0,
        "checkpoint_every": 0,
        "flops": 1e9,
        "peak": 1e11,
        "peak_bf16": 1e11,
        "messages": [{"kind": "keys", "bytes": 1000, "times": 1000}],
        "jitter": 0.0,
        "memory": 1e9,
    }
    return Profile(**values | changed)


def verdict(parts: dict[str, float], *overrides: tuple[str, Any], **changed: Any) -> Verdict:
    values: dict[str, Any] = {"train": {"precision": "bf16"}}
    for key, value in overrides:
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = value
    return find_verdict(measured(parts, **changed), Config.model_validate(values), cores=8)


@pytest.mark.parametrize(
    ("parts", "bound"),
    [
        ({"data wait": 0.6, "backward": 0.4}, DATA),
        ({"gradient reduction": 0.5, "gathers": 0.1, "backward": 0.4}, MESSAGES),
        ({"optimizer": 0.4, "EMA": 0.2, "backward": 0.4}, UPDATE),
        ({"backward": 0.6, "data wait": 0.2, "optimizer": 0.1, "gathers": 0.1}, COMPUTE),
        ({"backward": 0.4, "data wait": 0.1, "loader's cores": 0.5}, LOADER),
        ({"backward": 0.8, "optimizer": 0.1, "gathers": 0.1}, OVERHEAD),
    ],
)
def test_the_largest_cost_is_the_bound(parts: dict[str, float], bound: str) -> None:
    found = verdict(parts, overhead=0.6 if bound == OVERHEAD else 0.1)
    assert found.bound == bound
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.words.startswith("Bound by")


def test_data_that_come_late_are_worth_threads_where_there_are_cores() -> None:
    found = verdict({"data wait": 0.75, "backward": 0.25}, ("data.decode_threads", 1))
    assert "75 % of a step is lost waiting for the loader" in found.words
    assert "data.decode_threads=4 (more cores for decoding): up to 4.00 times the images/s" in found.words
    assert "--resize-shorter" in verdict({"data wait": 0.75, "backward": 0.25}).words


def test_gradients_that_take_long_are_worth_fewer_bytes() -> None:
    found = verdict({"gradient reduction": 0.8, "backward": 0.2})
    assert "parallel.gradient_dtype=bf16 (half the bytes): up to 1.67 times" in found.words
    assert "train.global_batch=512" in found.words
    already = verdict({"gradient reduction": 0.8, "backward": 0.2}, ("parallel.gradient_dtype", "bf16"))
    assert "gradient_dtype" not in already.words


def test_an_update_that_takes_long_is_shared_out_among_ranks() -> None:
    found = verdict({"optimizer": 0.8, "backward": 0.2})
    assert "parallel.zero_stage=1 (each rank updates its shard): up to 1.67 times" in found.words
    assert "parallel.zero_stage" not in verdict({"optimizer": 0.8, "backward": 0.2}, world_size=1).words


def test_a_checkpoint_counts_by_how_often_it_is_made() -> None:
    rare = verdict({"backward": 1.0}, checkpoint=0.5, checkpoint_every=1000)
    often = verdict({"backward": 1.0}, checkpoint=1.5, checkpoint_every=1)
    assert rare.bound == COMPUTE
    assert often.bound == UPDATE
    assert sum(often.shares.values()) == pytest.approx(1)


def test_a_gain_of_bf16_is_foretold_from_its_own_peak() -> None:
    found = verdict({"backward": 1.0}, ("train.precision", "fp32"), peak_bf16=2e11)
    assert "train.precision=bf16: up to 2.00 times" in found.words
    assert "precision" not in verdict({"backward": 1.0}, ("train.precision", "fp32")).words


def test_one_process_has_no_messages() -> None:
    assert verdict({"backward": 1.0}, world_size=1, without_messages=0.5).shares[MESSAGES] == 0


def test_cores_that_the_loader_takes_are_worth_fewer_threads_of_torch_where_there_are_several() -> None:
    found = verdict({"loader's cores": 0.5, "backward": 0.5}, threads=4)
    assert "While the loader rests, the model reaches 512 images/s, 2.0 times the present rate" in found.words
    assert "parallel.torch_threads=3 (leaves a core to the loader): try it" in found.words
    assert "torch_threads" not in verdict({"loader's cores": 0.5, "backward": 0.5}).words


def test_overhead_is_worth_a_larger_batch_and_on_a_gpu_a_compiled_network() -> None:
    found = verdict({"backward": 1.0}, overhead=0.8, threads=2)
    assert "80 % of a step does not depend on the number of images" in found.words
    assert "torch's dispatch" in found.words
    assert "train.global_batch=512 (the same overhead for twice the images): up to 1.67 times" in found.words
    assert "parallel.torch_threads=1" in found.words
    on_gpu = verdict({"backward": 1.0}, overhead=0.8, device="NVIDIA H100").words
    assert "the launch of kernels" in on_gpu
    assert "parallel.compile=true (fewer kernels): up to 5.00 times" in on_gpu
    assert "torch_threads" not in on_gpu


@pytest.mark.parametrize(
    ("measured", "why"),
    [
        ({"crowded": 0.4}, "the training thread had no core for 40% of the time"),
        (
            {"spread": {"step": 0.0, "without_data": 0.08, "peak": 0.01}},
            "a step on a loaded batch varies by ±8%",
        ),
        (
            {"spread": {"step": 0.0, "without_data": 0.0, "peak": 0.2}},
            "the peak of a matrix product varies by ±20%",
        ),
    ],
)
def test_a_busy_machine_is_too_busy_to_tell(measured: dict[str, Any], why: str) -> None:
    found = verdict({"backward": 1.0}, **measured)
    assert found.words.startswith(f"This machine is too busy to tell: {why}")
    assert "Bound by compute" in found.words
    assert "busy" not in verdict({"backward": 1.0}, crowded=0.02, spread={"peak": 0.02}).words


def test_one_change_that_helps_twice_is_advised_once_with_both_gains() -> None:
    found = verdict({"backward": 0.6, "gathers": 0.22, "optimizer": 0.18}, overhead=0.4, threads=2)
    larger = [line for line in found.words.splitlines() if "train.global_batch" in line]
    assert larger == [
        "  - train.global_batch=512 (the same overhead for twice the images and twice the images for the same gradient "
        "communication and half as many updates for the same images): up to 1.67 times the images/s"
    ]
    late = verdict({"data wait": 0.3, "loader's cores": 0.5, "backward": 0.2})
    assert late.words.count("more cores for each process: up to 5.00 times") == 1
    assert late.words.count("--resize-shorter") == 1


def test_of_two_values_of_a_setting_the_one_for_the_larger_cost_is_advised() -> None:
    found = verdict({"loader's cores": 0.6, "backward": 0.4}, overhead=0.3, threads=4)
    assert "parallel.torch_threads=3" in found.words
    assert "parallel.torch_threads=1" not in found.words
