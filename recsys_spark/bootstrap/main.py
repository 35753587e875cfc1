"""The set-up's command line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from .browser import set_up_browser
from .demo_data import fetch
from .environments import pack_environment, set_up_airflow, set_up_project
from .peers import set_up_peers
from .pyfiles import write_pyfiles
from .shell import PREFIX, SetupError

PROJECT = Path(__file__).resolve().parents[2]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="recsys_spark/bootstrap/__main__.py",
        description="Sets up this checkout; does nothing, fast, when all is as it should be.",
        epilog=(
            "Variables: RECSYS_TORCH is another requirement than the pinned torch ('torch==2.12.0'); "
            "HOROVOD_* build variables are Horovod's own (HOROVOD_GPU_OPERATIONS= for none); "
            "XDG_CACHE_HOME is where Horovod's wheel is kept. pip's configuration applies as it is."
        ),
    )
    parser.add_argument("--airflow", action="store_true", help="make .venv-airflow instead of .venv")
    parser.add_argument("--browser", action="store_true", help="make .venv-browser, for the test of the pages")
    parser.add_argument("--peers", action="store_true", help="make .venv-peers, for the benchmark of scoring")
    parser.add_argument("--demo-data", type=Path, metavar="DIR", help="fetch the demo's data into DIR instead")
    parser.add_argument("--pyfiles", type=Path, metavar="ZIP", help="zip the package for spark-submit instead")
    parser.add_argument("--env-archive", type=Path, metavar="TAR", help="pack an environment for executors instead")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str], project: Path = PROJECT) -> int:
    """Run the set-up; returns the exit code."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        if options.pyfiles is not None:
            print(f"{options.pyfiles}: {write_pyfiles(project / 'recsys_spark', options.pyfiles)} files")
        elif options.demo_data is not None:
            fetch(options.demo_data, project)
        elif options.env_archive is not None:
            pack_environment(project, options.env_archive, os.environ)
        elif options.airflow:
            set_up_airflow(project, os.environ)
        elif options.browser:
            set_up_browser(project, os.environ)
        elif options.peers:
            set_up_peers(project)
        else:
            set_up_project(project, os.environ)
    except SetupError as error:
        print(f"{PREFIX} {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PREFIX} interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


def _as_interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
