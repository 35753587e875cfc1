"""Every setting, in one typed tree, read from YAML.

``settings.py`` names the sections, in the order of the stages; each other file holds some of them.
``recsys-spark settings`` prints all keys with units and defaults.
"""

from recsys_spark.config.cleaning import Clean, Privacy
from recsys_spark.config.features import Feature, Features, Split
from recsys_spark.config.gate import Gate
from recsys_spark.config.input import DeletedUsersInput, EntitiesInput, Input, InteractionsInput, Reader
from recsys_spark.config.load import load_settings, parse_settings
from recsys_spark.config.models import (
    Evaluate,
    Labels,
    Publish,
    Ranker,
    Report,
    Retrieval,
    Score,
    Training,
)
from recsys_spark.config.operating import Retention
from recsys_spark.config.rules import Boost, Cap, Diversity, Explore, IdTable, Pin, PinTable, Rules
from recsys_spark.config.settings import Settings
from recsys_spark.config.sources import Candidates, Cold, Segment, Source
from recsys_spark.config.tuning import Parameter, Tuning, load_tuning
from recsys_spark.config.warm_start import WarmStart
from recsys_spark.config.watch import OnAlarm, Watch
from recsys_spark.config.where import Launch, Spark, Tracking

__all__ = [
    "Boost",
    "Candidates",
    "Cap",
    "Clean",
    "Cold",
    "DeletedUsersInput",
    "Diversity",
    "EntitiesInput",
    "Evaluate",
    "Explore",
    "Feature",
    "Features",
    "Gate",
    "IdTable",
    "Input",
    "InteractionsInput",
    "Labels",
    "Launch",
    "OnAlarm",
    "Parameter",
    "Pin",
    "PinTable",
    "Privacy",
    "Publish",
    "Ranker",
    "Reader",
    "Report",
    "Retention",
    "Retrieval",
    "Rules",
    "Score",
    "Segment",
    "Settings",
    "Source",
    "Spark",
    "Split",
    "Tracking",
    "Training",
    "Tuning",
    "WarmStart",
    "Watch",
    "load_settings",
    "load_tuning",
    "parse_settings",
]
