from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from trainer.config.schema import load_config
from trainer.monitoring.metrics import open_metrics
from trainer.runs.run_folder import RunFolder


def test_values_the_configuration_and_hyperparameters_are_there_and_later_steps_are_replaced(
    tmp_path: Path,
) -> None:
    config = load_config("cifar10", ["optim.lr=0.25", "run.tags=[narrow]"])
    run = RunFolder(tmp_path / "my_run")
    run.path.mkdir()
    for start, loss in ((0, 1.0), (2, 9.0)):
        metrics = open_metrics(run, config, start)
        for step in range(start + 1, 5):
            metrics.write("train", step, {"loss": loss}, {"images_per_second": 5.0}, epoch=step / 10)
        metrics.close()
        assert metrics.warnings() == []
    found = EventAccumulator(str(run.tensorboard)).Reload()
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [
        (1, 1.0),
        (2, 1.0),
        (3, 9.0),
        (4, 9.0),
    ]
    assert {"train/epoch", "train/images_per_second"} <= set(found.Tags()["scalars"])
    text = found.Tensors("my_run/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "    lr: 0.25" in text
    assert "    - narrow" in text
    start_info = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(start_info).session_start_info.hparams
    assert hparams["optim.lr"].number_value == 0.25
    assert hparams["backbone.name"].string_value == "resnet18"
    assert "metrics.log_every" not in hparams
