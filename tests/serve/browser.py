"""Chromium without a window, driven over a pipe by its DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.slurm import PATIENCE_S

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium() -> str:
    """The program; without one the test is skipped, or with BERTJOBS_REQUIRE_BROWSER=1 fails."""
    if found := next(filter(None, map(shutil.which, PROGRAMS)), None):
        return found
    words = "there is no Chromium: apt-get install chromium"
    if os.environ.get("BERTJOBS_REQUIRE_BROWSER") == "1":
        pytest.fail(words)
    pytest.skip(words)


class Page:
    """A tab of the browser."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._number = commands, answers, 0
        self._rest, self._session = b"", ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._number, "method": method, "params": parameters, **session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], PATIENCE_S)[0], "the browser does not answer"
            part = os.read(self._answers, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, url: str) -> None:
        """Go to an address; the document is there afterwards, and its script has run."""
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def wait_for(self, script: str) -> Any:
        """The value of an expression once it is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := self.evaluate(script)):
            assert time.monotonic() < deadline, script
            time.sleep(0.1)
        return value

    def click(self, selector: str) -> None:
        """Click with the mouse in the middle of an element."""
        script = f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();" \
                 " return [box.x + box.width / 2, box.y + box.height / 2]; })()"  # fmt: skip
        x, y = self.evaluate(script)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, selector: str, text: str) -> None:
        """Replace a field's content, as by typing."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a list."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{element}.value = {json.dumps(value)}; {element}.dispatchEvent(new Event('change'))")

    def picture(self, path: Path) -> None:
        """Save what is seen as a PNG."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A browser with one tab, and nothing remembered."""
    program = chromium()
    read_commands, commands = os.pipe()
    answers, write_answers = os.pipe()

    def place() -> None:  # the browser reads from 3 and writes to 4
        os.dup2(read_commands, 100)
        os.dup2(write_answers, 101)
        os.dup2(100, 3)
        os.dup2(101, 4)

    process = subprocess.Popen(
        [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
         "--disable-background-networking", "--disable-dev-shm-usage", "--window-size=1000,900",
         f"--user-data-dir={profile}"],
        preexec_fn=place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(read_commands)
    os.close(write_answers)
    try:
        yield Page(commands, answers)
    finally:
        process.kill()
        process.wait()
        os.close(commands)
        os.close(answers)
