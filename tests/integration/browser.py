"""Looks at pages as a person would, with Qt's web engine (Chromium); run by the Python of ``.venv-browser``.

browser.py '{"pages": {"name": "/path.html"}, "widths": [360], "out": "folder"}' prints what it saw as JSON, and leaves
pictures in the folder.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = "--no-sandbox --disable-gpu"  # root has no sandbox

from PyQt6.QtCore import QTimer, QUrl
from PyQt6.QtWebEngineCore import QWebEnginePage, QWebEngineProfile, QWebEngineUrlRequestInterceptor
from PyQt6.QtWebEngineWidgets import QWebEngineView
from PyQt6.QtWidgets import QApplication

HEIGHT = 1600  # of a picture
MOST_PICTURES = 8
PATIENCE_MS = 60_000

LOOK = Path(__file__).with_name("look.js").read_text(encoding="utf-8")


class Requests(QWebEngineUrlRequestInterceptor):
    """Notes every request, and lets none through but for files."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def interceptRequest(self, info: Any) -> None:
        url = info.requestUrl().toString()
        self.urls.append(url)
        info.block(not url.startswith(("file:", "data:")))


class Page(QWebEnginePage):
    """Notes what the console says."""

    said: list[str]

    def javaScriptConsoleMessage(self, level: Any, message: str, line: int, source: str) -> None:
        self.said.append(f"{level.name}: {message} ({source}:{line})")


class Look:
    """One page at one width: load, look, take pictures."""

    def __init__(self, name: str, path: str, width: int, out: Path, done: Any) -> None:
        self.name, self.width, self.out, self.done = name, width, out, done
        self.requests, self.pictures = Requests(), list[str]()
        self.profile = QWebEngineProfile()
        self.profile.setUrlRequestInterceptor(self.requests)
        self.page = Page(self.profile)
        self.page.said = []
        self.view = QWebEngineView()
        self.view.setPage(self.page)
        self.view.resize(width, HEIGHT)
        self.view.loadFinished.connect(self._loaded)
        self.view.load(QUrl.fromLocalFile(path))
        self.view.show()

    def _loaded(self, ok: bool) -> None:
        self.ok = ok
        self._shoot(0)

    def _shoot(self, number: int) -> None:
        move = f"scrollTo({{top: {number * HEIGHT}, behavior: 'instant'}}); document.scrollingElement.scrollHeight"
        self.page.runJavaScript(move, lambda height: QTimer.singleShot(250, lambda: self._keep(number, int(height))))

    def _keep(self, number: int, height: int) -> None:
        path = self.out / f"{self.name}-{self.width}-{number}.png"
        self.view.grab().save(str(path))
        self.pictures.append(str(path))
        if (number + 1) * HEIGHT < height and number + 1 < MOST_PICTURES:
            self._shoot(number + 1)
        else:
            self.page.runJavaScript(LOOK, self._tell)

    def _tell(self, seen: str | None) -> None:
        facts = json.loads(seen) if seen else {}
        asked = {"requests": self.requests.urls, "console": self.page.said, "pictures": self.pictures}
        self.done({"page": self.name, "width": self.width, "loaded": self.ok, **asked, **facts})


def main(job: dict[str, Any]) -> int:
    app = QApplication(sys.argv[:1])
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    todo = [(name, path, width) for name, path in job["pages"].items() for width in job["widths"]]
    seen: list[dict[str, Any]] = []
    now: list[Look] = []  # the page in sight; one at a time

    def further(facts: dict[str, Any] | None = None) -> None:
        if facts is not None:
            seen.append(facts)
            now.pop().view.close()
        if todo:
            now.append(Look(*todo.pop(0), out, further))
        else:
            print(json.dumps(seen))
            app.quit()

    QTimer.singleShot(0, further)
    QTimer.singleShot(PATIENCE_MS, lambda: app.exit(3))
    return int(app.exec())


if __name__ == "__main__":
    sys.stdout.flush()
    code = main(json.loads(sys.argv[1]))
    sys.stdout.flush()
    os._exit(code)  # Qt's end of a profile before its page prints a warning, and may crash
