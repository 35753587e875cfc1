"""Entry point of the set-up; it must start under any Python, if only to say that it is the wrong one.

What `make setup`, `make demo` and `make test` call::

    python3.11 recsys_spark/bootstrap/__main__.py                      # .venv with everything in it
    python3.11 recsys_spark/bootstrap/__main__.py --airflow            # .venv-airflow
    python3.11 recsys_spark/bootstrap/__main__.py --browser            # .venv-browser
    python3.11 recsys_spark/bootstrap/__main__.py --peers              # .venv-peers
    python3.11 recsys_spark/bootstrap/__main__.py --demo-data .demo/data
    python3.11 recsys_spark/bootstrap/__main__.py --pyfiles dist/recsys_spark.zip
    python3.11 recsys_spark/bootstrap/__main__.py --env-archive dist/environment.tar.gz
"""

import os
import sys

NEEDED = (3, 11)


def _check_python():
    # type: () -> None
    if sys.version_info[:2] != NEEDED:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(
            "recsys_spark set-up: needs Python 3.11, this is {}; install it, for example "
            "'apt-get install python3.11 python3.11-venv', then 'make PYTHON=python3.11 setup'".format(found)
        )


def _main():
    # type: () -> int
    # Run by path, this file has no parent package, and importing `recsys_spark` is not on: its own
    # imports are what is about to be installed. So the folder is imported as `bootstrap`.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[0] = os.path.dirname(here)
    from bootstrap.main import main

    del sys.path[0]
    return int(main(sys.argv[1:]))


if __name__ == "__main__":
    _check_python()
    sys.exit(_main())
