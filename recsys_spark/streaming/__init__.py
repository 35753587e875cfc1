"""Examples to batches of tensors. The only place that names Petastorm."""

from recsys_spark.streaming.ownership import deal_groups, owned_shards
from recsys_spark.streaming.reader import ExampleStream, Shard, sample_rows, shards
from recsys_spark.streaming.sample import Sample, count

__all__ = ["ExampleStream", "Sample", "Shard", "count", "deal_groups", "owned_shards", "sample_rows", "shards"]
