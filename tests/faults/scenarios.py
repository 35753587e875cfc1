"""Faults that are no kill."""

from __future__ import annotations

from collections.abc import Callable

from faults.rounds import World

SCENARIOS: dict[str, Callable[[World, int], str]] = {}
