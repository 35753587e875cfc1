"""The command ``recsys-spark tune``."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from recsys_spark.config import Settings, Tuning, load_tuning
from recsys_spark.config.load import settings_of, settings_tree
from recsys_spark.cuts import check_day
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.tables.lock import writer_lock
from recsys_spark.tables.storage import Storage
from recsys_spark.tracking import check_tracking

FOLDER = "_tune"  # below the root


def tune(
    config: Annotated[str, typer.Option("--config", envvar="RECSYS_CONFIG", help="Settings that trials begin from")],
    date: Annotated[str, typer.Option("--date", help="Day of the tables to train on, YYYY-MM-DD")],
    space: Annotated[
        str,
        typer.Option(
            "--space",
            help="What to vary: jobs/conf/tune_retrieval.yaml, tune_ials.yaml, tune_ranker.yaml or your own; "
            "'recsys-spark settings' explains its keys",
        ),
    ],
    study: Annotated[
        str | None, typer.Option("--study", help="Name of the study; by default that of the space's file and the day")
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Trials that the study has in the end; else as in the space")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: section.key=value; repeatable")
    ] = None,
) -> None:
    """Search for better settings of a training by its figure on the validation window; test plays no part.

    \b
    recsys-spark run --config my.yaml --date 2026-01-31                  tables to train on, once
    recsys-spark tune --config my.yaml --date 2026-01-31 --space jobs/conf/tune_retrieval.yaml
    recsys-spark tune ... the same ... --trials 60                       more trials; also after a kill
    recsys-spark train-retrieval --config <root>/_tune/<study>/best.yaml --date 2026-01-31

    A trial is a process that trains on the tables which earlier stages have written; nothing that readers see is
    touched. The study lies in <root>/_tune/<study>: best.yaml (for --config), trials.csv, study.db (Optuna), logs (for
    TensorBoard).
    """  # noqa: D301 - \b is click's mark of lines to keep
    from recsys_spark.tuning.study import need_optuna

    need_optuna()
    check_day(date)
    tuning = load_tuning(space)
    if trials is not None:
        tuning = tuning.model_copy(update={"trials": trials})
    tree = settings_tree(config, change)
    settings = settings_of(tree, config)
    name = study or f"{Path(space).stem}-{date}"
    folder = _folder(tuning, settings, name)
    search(tuning, tree, config, space, date, name, folder)


def search(tuning: Tuning, tree: dict[str, Any], config: str, space: str, date: str, name: str, folder: Path) -> None:
    """Check all that can be checked before the first trial, then do the trials that are missing, and tell the best.

    Parameters
    ----------
    tuning : Tuning
    tree : dict
        Plain values of the settings.
    config, space : str
        Their files, for messages.
    date : str
        YYYY-MM-DD.
    name : str
        Of the study.
    folder : Path
        Of the study.
    """
    from recsys_spark.tuning.inputs import find_plan, seed_of
    from recsys_spark.tuning.results import BEST, TRIALS
    from recsys_spark.tuning.search import Search
    from recsys_spark.tuning.space import check_space
    from recsys_spark.tuning.study import open_study, what_decides

    settings = settings_of(tree, config)
    check_space(tuning, tree, space)
    check_tracking(settings.tracking)
    plan = find_plan(tuning.stage, settings, date)
    seeds = tuning.seeds or [seed_of(tuning.stage, settings)]
    storage, work = plan.store.storage, f"{FOLDER}/{name}/work"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds: the trial's process is ended
    with writer_lock(Storage(str(folder)), f"the study '{name}' is"):
        storage.delete_folder(work)  # of a study that was killed
        study = open_study(name, folder, tuning, what_decides(tuning, settings, plan, seeds))
        say(f"study '{name}': {tuning.trials} trials of {tuning.stage}, seeds {seeds}, in {folder}")
        try:
            best = Search(study, tuning, tree, settings, plan, seeds, folder, work).run()
        finally:
            storage.delete_folder(work)
    print(f"best:     trial {best.number}, {tuning.metric} {best.value:.6g}")
    for key, value in best.user_attrs["settings"].items():
        print(f"          {key}: {value}")
    print(f"settings: {folder / BEST}")
    print(f"trials:   {folder / TRIALS}")


def _folder(tuning: Tuning, settings: Settings, name: str) -> Path:
    """Local folder of a study."""
    if not re.fullmatch(r"\w[\w.\-]*", name):
        raise RecsysError(f"'{name}' cannot be the name of a study", "--study", "Use letters, digits, _, - and . only.")
    if settings.launch.launcher == "spark":
        raise RecsysError(
            "trials are trained by processes of this machine, not on Spark's executors",
            "setting 'launch.launcher' = spark",
            "Add --set launch.launcher=horovodrun, or --set launch={launcher: local}.",
        )
    if tuning.folder is not None:
        return Path(tuning.folder).expanduser().absolute() / name
    storage = Storage(settings.root)
    if not storage.is_local:
        raise RecsysError(
            "the study's database must be on a local disk, and the root is not",
            f"setting 'root' = {settings.root}",
            "Give 'folder' in the space's file.",
        )
    return Path(storage.path(f"{FOLDER}/{name}"))
