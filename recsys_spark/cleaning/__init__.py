"""Raw log to interactions, quarantine and ledger."""

from recsys_spark.cleaning.clean import STAGE

__all__ = ["STAGE"]
