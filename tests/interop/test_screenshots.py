"""Pictures of the dashboard, light and dark, as the README shows them.

    READYGATE_SCREENSHOTS=docs/images tests/interop/run.sh test_screenshots.py

takes new ones after a minute of traffic; without the variable that is over as soon as there is
something to see, and the pictures are thrown away.
"""

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from harness import proxy
from harness.browser import Page

ROOT = Path(__file__).parents[2]
MOST_BYTES = 150_000
PATHS = "[...document.querySelectorAll('#waiting-rows .path')].map((it) => it.innerText)"
BOTTOM = """Math.ceil(
    document.querySelector("#states").closest("section").getBoundingClientRect().bottom + 8
)"""
CONFIG = """\
listen = "127.0.0.1:{port}"

[[route]]
path = "/agent"
upstream = "http://127.0.0.1:{agent}"
gate = {{ ready = {{ text = "ready" }} }}

[[route]]
path = "/assistant"
upstream = "http://127.0.0.1:{agent}"
gate = {{ ready = {{ text = "services are up" }}, timeout = "2m" }}

[[route.message]]
match = {{ prefix = "ask" }}
priority = "critical"

[[route]]
path = "/reports"
upstream = "http://127.0.0.1:{nowhere}"
gate = {{ ready = {{ text = "ready" }}, timeout = "3m" }}
"""


@contextmanager
def agent() -> Iterator[int]:
    """A backend that is ready after up to 2 s and then echoes; returns its port."""

    def speak(connection: ServerConnection) -> None:
        time.sleep(random.uniform(0.2, 2))
        connection.send("ready")
        for message in connection:
            connection.send(message)

    with serve(speak, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


def talk(url: str, is_over: threading.Event) -> None:
    """Sessions one after another, each with some messages and their echoes."""
    while not is_over.is_set():
        with connect(url) as client:
            for _ in range(random.randint(20, 400)):
                client.send("x" * random.randint(10, 2000))
                client.recv(timeout=30)
                if is_over.wait(random.uniform(0, 0.05)):
                    break


@contextmanager
def clients(url: str, count: int) -> Iterator[None]:
    is_over = threading.Event()
    threads = [threading.Thread(target=talk, args=[url, is_over]) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def test_the_dashboard_can_be_pictured_light_and_dark(
    processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = os.environ.get("READYGATE_SCREENSHOTS")
    folder = ROOT / kept if kept else tmp_path
    admin = f"127.0.0.1:{proxy.free_port()}"
    monkeypatch.setattr(proxy, "ADMIN", admin)
    with ExitStack() as stack:
        port = stack.enter_context(agent())
        entry = proxy.start_with(
            processes,
            tmp_path,
            lambda own: CONFIG.format(port=own, agent=port, nowhere=proxy.free_port()),
        )
        url = f"ws://127.0.0.1:{entry}"
        page = stack.enter_context(Page.start(processes, tmp_path))
        page.show(1280)
        page.open(f"http://{admin}/")
        page.until("document.body.dataset.connection === 'live'")

        def wait(path: str, messages: int) -> None:
            client = stack.enter_context(connect(f"{url}{path}"))
            for number in range(messages):
                client.send("ask" if number % 4 == 0 else "then")

        wait("/assistant", 12)
        stack.enter_context(clients(f"{url}/agent", 8))
        if kept:
            page.until("performance.now() > 20_000", 60)
        wait("/reports", 5)
        page.until("document.querySelectorAll('#ready-bars .fill').length > 1", 60)
        if kept:
            page.until("performance.now() > 60_000", 60)
        wait("/assistant", 3)
        for path, count in (("/assistant", 2), ("/reports", 1)):
            page.until(f"{PATHS}.filter((it) => it === '{path}').length === {count}", 60)

        for scheme in ("light", "dark"):
            page.show(1280, page.run(BOTTOM), scheme)
            picture = folder / f"page-{scheme}.png"
            page.picture(picture, whole=False)
            assert 20_000 < picture.stat().st_size < MOST_BYTES
        assert page.complaints == []
