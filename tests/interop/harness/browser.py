"""Chromium without a window, spoken to by its DevTools protocol."""

import base64
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from harness.processes import Processes, wait_until

START_SECONDS = 30
ANSWER_SECONDS = 20
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Page:
    """One page in a browser of its own, and what that had to complain about."""

    @classmethod
    @contextmanager
    def start(cls, processes: Processes, folder: Path) -> Iterator["Page"]:
        """Starts the browser, with its profile in `folder`."""
        profile = folder / "profile"
        command = ["chromium", *SWITCHES, f"--user-data-dir={profile}", "about:blank"]
        browser = processes.start("chromium", command)
        announced = profile / "DevToolsActivePort"
        wait_until(
            lambda: announced.exists() and "\n/" in announced.read_text(),
            START_SECONDS,
        )
        assert announced.exists(), browser.log()
        port, path = announced.read_text().split("\n")[:2]
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as socket:
            yield cls(socket)

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._session: str | None = None
        self.complaints: list[str] = []
        """Errors in the console, exceptions, and what a policy forbade."""
        self.requested: list[str] = []
        """The URL of each request."""
        self.failed: list[str] = []
        """The URL of each request that failed, or had a status like 404."""
        self._answers: dict[str, bytes] = {}
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command."""
        id = next(self._ids)
        message = {"id": id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=ANSWER_SECONDS))
            if answer.get("id") == id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            if "method" in answer:
                self._note(answer["method"], answer["params"])

    def _note(self, event: str, parameters: dict[str, Any]) -> None:
        match event:
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                if parameters["type"] in ("error", "warning", "assert"):
                    self.complaints.append(json.dumps(parameters["args"]))
            case "Log.entryAdded":
                entry = parameters["entry"]
                if entry["source"] == "network":
                    self.failed.append(entry.get("url", entry["text"]))
                elif entry["level"] in ("error", "warning"):
                    self.complaints.append(json.dumps(entry))
            case "Audits.issueAdded":
                issue = json.dumps(parameters["issue"])
                # Scripts that go somewhere without anybody's click: those of a test do.
                if "NavigationEntryMarkedSkippable" not in issue:
                    self.complaints.append(issue)
            case "Network.requestWillBeSent":
                self.requested.append(parameters["request"]["url"])
            case "Fetch.requestPaused":
                self._answer(parameters)

    def _answer(self, paused: dict[str, Any]) -> None:
        """Does not wait for the result: that comes among the events."""
        answer = {
            "requestId": paused["requestId"],
            "responseCode": 200,
            "responseHeaders": [{"name": "content-type", "value": "text/event-stream"}],
            "body": base64.b64encode(self._answers[paused["request"]["url"]]).decode(),
        }
        command = {"id": next(self._ids), "method": "Fetch.fulfillRequest", "params": answer}
        self._socket.send(json.dumps(command | {"sessionId": self._session}))

    def replace(self, url: str, events: bytes) -> None:
        """From now on `url` has these server-sent events and no others."""
        self._answers[url] = events
        patterns = [{"urlPattern": one} for one in self._answers]
        self.call("Fetch.enable", patterns=patterns)

    def open(self, url: str) -> None:
        """Goes there, and waits until everything is loaded."""
        assert "errorText" not in self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        result = self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, condition: str, timeout: float = 15) -> None:
        """Waits for an expression to become true."""
        wait_until(lambda: self.run(f"!!({condition})"), timeout)
        assert self.run(f"!!({condition})"), f"{condition}\n{self.text()}"

    def text(self, selector: str = "body") -> str:
        """What is to be read there."""
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def press(self, key: str) -> None:
        """Presses a key and lets it go."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
                **(text if kind == "keyDown" else {}),
            )

    def show(self, width: int, height: int = 900, scheme: str = "light") -> None:
        """How large the window is, and whether people want it light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def picture(self, file: Path, whole: bool = True) -> None:
        """Writes a screenshot, of the whole page or what is in the window."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(taken["data"]))
