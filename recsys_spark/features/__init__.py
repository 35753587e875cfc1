"""Interactions to ids, features, histories and training examples."""

from recsys_spark.features.featurize import STAGE

__all__ = ["STAGE"]
