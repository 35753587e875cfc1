"""Nightly batch recommender: Spark tables, Petastorm streams, Horovod training, exact top-N scoring."""

__version__ = "0.1.0"
