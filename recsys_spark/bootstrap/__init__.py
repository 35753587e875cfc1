"""Set-up of a checkout, before and after its virtual environment exists.

This package is run by the system's Python (``python3.11 recsys_spark/bootstrap/__main__.py``), so
everything in it uses the standard library alone and imports nothing else of ``recsys_spark``.

One name is meant for the rest of the project: :func:`find_java_home`.
"""

from .java import find_java_home

__all__ = ["find_java_home"]
