"""What scoring is measured beside that cannot share the project's environment: RecTools wants older packages."""

from __future__ import annotations

from pathlib import Path

from .environments import set_up_further

PINS = (
    "RecTools==0.19.0",  # wants attrs < 24, and brings an 'implicit' of its own (pm-implicit)
    "annotated-types==0.8.0",
    "attrs==23.2.0",
    "fastrlock==0.8.4",
    "numpy==1.26.4",
    "pandas==2.3.3",
    "pm-implicit==0.7.3",
    "pydantic==2.14.4",
    "pydantic_core==2.50.5",
    "python-dateutil==4.0.0",
    "pytz==2026.6",
    "scipy==1.17.1",
    "threadpoolctl==3.8.0",
    "tqdm==4.70.1",
    "typeguard==4.6.1",
    "typing-inspection==0.4.5",
    "typing_extensions==4.16.0",
    "tzdata==2026.6",
)


def set_up_peers(project: Path) -> None:
    """Bring ``.venv-peers`` up to date; 370 MB lie on the disk.

    Parameters
    ----------
    project : Path
        Root of the checkout.

    Raises
    ------
    SetupError
        With one line for the person.
    """
    set_up_further(project, ".venv-peers", PINS, "RecTools")
