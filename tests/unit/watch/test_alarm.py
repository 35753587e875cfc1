"""A real command and a real server are told; neither can fail a night."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from recsys_spark.config import OnAlarm
from recsys_spark.watch.alarm import tell

OUTCOME = {"outcome": "alarm", "date": "2024-03-10", "says": "Größe – 50 %", "failed": [{"name": "volume"}]}
KEEP = "import sys; open(sys.argv[1], 'wb').write(sys.stdin.buffer.read())"


class Server(HTTPServer):
    got: list[tuple[str, Any]]
    status: int


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            made.got.append((self.headers["Content-Type"], json.loads(content)))
            if made.status == 0:
                time.sleep(1.5)
            self.send_response(made.status or 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    made = Server(("127.0.0.1", 0), Handler)
    made.got, made.status = [], 200
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/hook"


def test_nobody_is_told_by_default() -> None:
    assert tell(OnAlarm(), OUTCOME) == []


def test_a_command_gets_the_outcome(tmp_path: Path) -> None:
    told = tmp_path / "what was told"
    command = f'{sys.executable} -c "{KEEP}" "{told}"'
    assert tell(OnAlarm(command=command), OUTCOME) == []
    assert json.loads(told.read_bytes()) == OUTCOME


def test_a_webhook_gets_the_outcome(server: Server) -> None:
    assert tell(OnAlarm(webhook=url(server)), OUTCOME) == []
    assert server.got == [("application/json", OUTCOME)]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("no-such-program-anywhere", "No such file"),
        (f"{sys.executable} -c \"import sys; sys.exit('full')\"", "exit code 1: full"),
        (f'{sys.executable} -c "import time; time.sleep(30)"', "timed out"),
        ("'an open quote", "No closing quotation"),
    ],
)
def test_a_command_that_fails_is_said(command: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    (trouble,) = tell(OnAlarm(command=command, timeout_seconds=0.5), OUTCOME)
    assert time.monotonic() - started < 5
    assert why in trouble
    assert "watch.on_alarm.command: nobody was told" in capsys.readouterr().out


@pytest.mark.parametrize(("status", "why"), [(500, "500"), (0, "timed out")])
def test_a_webhook_that_fails_is_said(server: Server, status: int, why: str) -> None:
    server.status = status
    (trouble,) = tell(OnAlarm(webhook=url(server), timeout_seconds=0.5), OUTCOME)
    assert why in trouble


def test_one_that_fails_keeps_the_other_from_nothing(server: Server) -> None:
    hook = OnAlarm(command="no-such-program-anywhere", webhook=url(server))
    assert len(tell(hook, OUTCOME)) == 1
    assert len(server.got) == 1
    assert len(tell(OnAlarm(webhook="http://127.0.0.1:9/nobody", timeout_seconds=1), OUTCOME)) == 1
