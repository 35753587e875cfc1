"""Examples to batches of tensors. The only place that names Petastorm."""

from recsys_spark.streaming.reader import ExampleStream, Shard, sample_rows, shards

__all__ = ["ExampleStream", "Shard", "sample_rows", "shards"]
