"""Tell somebody: a command that gets the outcome on its standard input, or a webhook. Neither can fail a night."""

from __future__ import annotations

import json
import shlex
import subprocess
import urllib.request
from typing import Any

from recsys_spark.config import OnAlarm
from recsys_spark.progress import say


def tell(hook: OnAlarm, outcome: dict[str, Any]) -> list[str]:
    """Call the command and the webhook that the settings name.

    Parameters
    ----------
    hook : OnAlarm
    outcome : dict
        Plain values, sent as one JSON object.

    Returns
    -------
    list of str
        What went wrong; it is said on the way, and is nobody's failure.
    """
    content = json.dumps(outcome, sort_keys=True).encode()
    troubles = []
    if hook.command is not None:
        troubles += _guarded("watch.on_alarm.command", lambda: _run(hook, content))
    if hook.webhook is not None:
        troubles += _guarded("watch.on_alarm.webhook", lambda: _post(hook, content))
    return troubles


def _guarded(name: str, call: Any) -> list[str]:
    try:
        call()
    except Exception as error:
        trouble = f"{name}: nobody was told ({' '.join(str(error).split())[:300]})"
        say(trouble)
        return [trouble]
    return []


def _run(hook: OnAlarm, content: bytes) -> None:
    done = subprocess.run(
        shlex.split(hook.command or ""),
        input=content,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=hook.timeout_seconds,
        check=False,
    )
    if done.returncode:
        raise OSError(f"exit code {done.returncode}: {done.stderr[-200:].decode(errors='replace')}")


def _post(hook: OnAlarm, content: bytes) -> None:
    request = urllib.request.Request(
        hook.webhook or "", data=content, headers={"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=hook.timeout_seconds) as answer:
        if answer.status >= 300:
            raise OSError(f"status {answer.status}")
