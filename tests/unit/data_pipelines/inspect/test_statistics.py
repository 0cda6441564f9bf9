import numpy as np

from data_pipelines.inspect.statistics import QUANTILES, preparing_speed, statistics
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.shards.shard_set import ShardSet


def test_facts_are_those_of_the_images(shards: ShardSet) -> None:
    facts = statistics(shards)
    assert (facts.samples, facts.shards, facts.unlabeled) == (90, 4, 0)
    assert facts.per_class.tolist() == [30, 30, 30]
    contents = [len(shards.read(sample)) for sample in range(90)]
    assert facts.image_bytes == sum(contents)
    np.testing.assert_allclose(facts.quantiles["bytes"], np.quantile(contents, QUANTILES))
    assert facts.quantiles["shorter side"][0] == 40
    assert facts.quantiles["longer side"][-1] == 54
    assert 0.9 < facts.quantiles["aspect"][0] < facts.quantiles["aspect"][-1] < 1.4


def test_the_speed_is_that_of_batches(shards: ShardSet) -> None:
    settings = DataSettings(views=(ViewSettings(size=16),) * 2, eval_resize=16, executor="opencv", threads=1)
    assert preparing_speed(shards, settings, images=60, batch=200) > 0
