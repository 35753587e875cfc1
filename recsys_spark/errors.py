"""The one error a person sees: what was found, where, and what to do."""

from __future__ import annotations


class RecsysError(Exception):
    """Bad input, bad settings or a broken promise, told in one line.

    Parameters
    ----------
    found : str
        What was found, with the values themselves.
    where : str
        File, table, column or setting in which it was found.
    do : str
        What the reader can do about it.
    """

    def __init__(self, found: str, where: str, do: str) -> None:
        self.found, self.where, self.do = found, where, do
        super().__init__(f"{where}: {found}. {do}")


class Held(RecsysError):
    """A night whose lists are not shown, because a check says so: the job did not fail, and did not end well either."""
