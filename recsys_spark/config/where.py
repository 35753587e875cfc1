"""Where the job runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsys_spark.config.base import Section


class Launch(Section):
    """How the training processes start, and what scoring works on. Changes no result, given the number of ranks."""

    launcher: Literal["local", "horovodrun", "spark"] = Field(
        "local",
        description="local: one process without Horovod; horovodrun: on hosts; spark: on the executors",
    )
    ranks: int = Field(1, ge=1, description="Training processes")
    hosts: str | None = Field(None, description="horovodrun's hosts, such as 'a:2,b:2'; this machine by default")
    threads: int = Field(1, ge=1, description="Torch threads of a rank")
    start_timeout: int = Field(120, ge=1, description="Seconds until all ranks must have started")
    stall_timeout: int = Field(
        1800, ge=1, description="Seconds that a rank may keep the others waiting before all of them are ended"
    )
    scoring_device: Literal["cpu", "cuda", "auto"] = Field(
        "cpu",
        description="What finds the best items of users by the product of vectors; the lists are the same. cuda: the "
        "first GPU that a Spark worker sees, and an error where it sees none; auto: a GPU where there is one",
    )

    @model_validator(mode="after")
    def _local_is_one(self) -> Launch:
        if self.launcher == "local" and self.ranks != 1:
            raise ValueError("launcher 'local' is one process: use 'horovodrun' or 'spark' for more ranks")
        return self


class Spark(Section):
    """Spark's session, where `spark-submit` has not settled it."""

    master: str = Field("local[*]", description="Used unless spark-submit gives one")
    driver_memory: str = Field("2g", description="Java heap of the driver; in local mode it is the whole job's")
    shuffle_partitions: int = Field(8, ge=1)
    conf: dict[str, str] = Field({})


class Tracking(Section):
    """An MLflow server or store that trainings are told to, beside their TensorBoard curves (extra `mlflow`)."""

    mlflow_uri: str | None = Field(
        None,
        description="Tracking URI, such as http://HOST:5000 or sqlite:////path/mlflow.db; none: MLflow is not used. "
        "User and password belong into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    )
    experiment: str = Field("recsys_spark", min_length=1, description="MLflow experiment; made where it is not there")
