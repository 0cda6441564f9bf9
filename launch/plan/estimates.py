"""Numbers for a plan without a measurement, each with its source."""

from dataclasses import dataclass

from launch.slurm.agent_links import LOST_AFTER_S


@dataclass(frozen=True)
class Estimate:
    """A number that was measured or published elsewhere."""

    value: float
    source: str


IMAGES_PER_EPOCH = Estimate(1_281_167, "the images of ImageNet-1k")
ESTIMATES = {
    "mtbf_seconds": Estimate(
        3600 * 54 * 24 * 2048 / 419, "Llama 3 (arXiv 2407.21783): 419 failures in 54 days on 2,048 nodes"
    ),
    "rank_failures": Estimate(54 / 419, "Llama 3 (arXiv 2407.21783): 54 of 419 failures were software bugs"),
    "step_seconds": Estimate(
        0.068, "computed for imagenet_resnet50, 64 images per H100 (docs/explanation/scaling.md)"
    ),
    "evaluation_seconds": Estimate(0.0, "evaluations during training are not counted"),
    "save_seconds": Estimate(0.060, "ResNet-50 on a CPU (benchmarks/checkpoint_stall.py)"),
    "write_seconds": Estimate(0.82, "ResNet-50 on a local disk (benchmarks/checkpoint_stall.py)"),
    "in_place_seconds": Estimate(3.4, "two nodes without GPUs (tests/slurm/test_recovery_in_place.py)"),
    "start_seconds": Estimate(6.1, "two nodes without GPUs (benchmarks/chaos.py)"),
    "queue_seconds": Estimate(120.0, "SLURM's default wait before a requeued job starts (cred_expire)"),
    "release_seconds": Estimate(2.9, "a killed rank on two nodes (benchmarks/chaos.py)"),
}
"""By the name of the field of `Assumptions`."""
NODE_LOSS_IN_PLACE = Estimate(LOST_AFTER_S, "time after which a node is lost (launch/slurm/agent_links.py)")
NODE_LOSS_REQUEUE = Estimate(300.0, "SLURM's default SlurmdTimeout")
FIRST_NODE_LOSS_IN_PLACE = Estimate(60.0, "SLURM or the run's lock tells it within about a minute")
