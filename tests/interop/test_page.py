"""The page for people in Chromium: what it shows, live, and to whom it is of use."""

import json
import os
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from harness import proxy
from harness.browser import Page
from harness.processes import wait_until

GATE = 'ready = { text = "ready" }'
RULES = """
[[route.message]]
match = { prefix = "now" }
priority = "critical"
"""
STATES = (
    "connecting accepted reconnecting authenticated services_ready processing_ready "
    "degraded processing idle closing closed failed"
).split()
SESSIONS = 1000


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the admin listener of the proxy of a test is, of which there is one."""
    address = f"127.0.0.1:{proxy.free_port()}"
    monkeypatch.setattr(proxy, "ADMIN", address)
    return f"http://{address}"


@pytest.fixture
def start(processes, tmp_path: Path, admin: str) -> Callable[..., int]:
    """Starts a proxy before an upstream that need not be there; returns its port."""

    def start(upstream: int, route: str = "", gate: str = GATE) -> int:
        return proxy.start(processes, tmp_path, upstream, gate, RULES, route)

    return start


@pytest.fixture
def page(processes, tmp_path: Path, admin: str) -> Iterator[Page]:
    """A browser which has nothing to complain about, and asks nobody else."""
    own = (f"{admin}/", "data:", "about:")
    with Page.start(processes, tmp_path) as page:
        page.show(1280)
        yield page
        assert page.complaints == []
        assert [url for url in page.requested if not url.startswith(own)] == []


@contextmanager
def upstream(port: int, echoes: int = 1) -> Iterator[threading.Event]:
    """A backend at `port` that is ready when the event is set, and then echoes so many times."""
    is_ready = threading.Event()

    def speak(connection: ServerConnection) -> None:
        is_ready.wait()
        connection.send("ready")
        for message in connection:
            for _ in range(echoes):
                connection.send(message)

    with serve(speak, "127.0.0.1", port) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield is_ready
        finally:
            is_ready.set()
            server.shutdown()
            thread.join()


def snapshot(admin: str) -> dict:
    """What the first event says."""
    with urllib.request.urlopen(f"{admin}/events", timeout=5) as events:
        for line in events:
            if line.startswith(b"data: "):
                return json.loads(line.removeprefix(b"data: "))
    raise AssertionError("no event")


def events(snapshot: dict) -> bytes:
    return b"data: " + json.dumps(snapshot).encode() + b"\n\n"


def open_live(page: Page, url: str) -> None:
    page.open(url)
    page.until("document.body.dataset.connection === 'live'")


def says(selector: str, text: str) -> str:
    """The condition that a text is to be read there."""
    element = f"document.querySelector({json.dumps(selector)})"
    return f"{element}.innerText.includes({json.dumps(text)})"


def test_without_sessions_it_says_what_to_do(start, admin: str, page: Page) -> None:
    port = start(proxy.free_port())

    open_live(page, admin)

    assert f"open a WebSocket to ws://127.0.0.1:{port}" in page.text("#waiting-empty")
    names = "[...document.querySelectorAll('#states .name')].map((it) => it.innerText)"
    assert page.run(names) == STATES
    assert page.run("document.querySelectorAll('header, main, footer').length") == 3
    assert page.text("h1") == "readygate"
    assert re.fullmatch(r"\d+\.\d+\.\d+, (just started|up \d+ s)", page.text("#about"))
    assert page.run("document.querySelectorAll('#charts figure').length") == 3
    assert "of 10,000" in page.text("#limits-rows")
    assert page.text("#routes-rows").startswith("/")
    assert page.run("document.querySelectorAll('.loss').length") == 0


def test_a_held_session_appears_waits_and_leaves_when_it_is_ready(
    start, admin: str, page: Page
) -> None:
    port = proxy.free_port()
    entry = start(port)
    open_live(page, admin)

    with connect(f"ws://127.0.0.1:{entry}/chat") as client:
        client.send("now")
        client.send("then")
        page.until("document.querySelectorAll('#waiting-rows tr').length === 1")
        assert page.text("#waiting-rows .path") == "/chat"
        page.until(says("#waiting-rows", "1 critical, 1 normal"))
        page.until(says("#waiting-rows", "refused"))
        assert page.run("document.title") == "1 waiting – readygate"
        width = "parseFloat(document.querySelector('#waiting-rows .bar > div').style.width)"
        before = page.run(width)
        page.until(f"{width} > {before}")
        assert "of 30 s" in page.text("#waiting-rows")

        with upstream(port) as is_ready:
            page.until(says("#waiting-rows", "connected, not ready"))
            is_ready.set()
            page.until("document.querySelectorAll('#waiting-rows tr').length === 0")
            assert "ready for every session" in page.text("#waiting-empty")
            page.until(says("#ready-note", "1 session:"))
            assert page.run("document.querySelectorAll('#ready-bars .fill').length") > 1
            page.until(says("#ledger-rows [data-name=delivered]", "2"))


def test_the_keyboard_opens_the_life_of_a_session_and_closes_it(
    start, admin: str, page: Page
) -> None:
    port = proxy.free_port()
    entry = start(port)
    with connect(f"ws://127.0.0.1:{entry}/chat") as client:
        client.send("then")
        open_live(page, admin)
        page.until("document.querySelector('#waiting-rows a')")
        while page.run("document.activeElement.dataset.session") is None:
            page.press("Tab")

        page.press("Enter")

        page.until("document.querySelector('#session').open")
        page.until("!document.querySelector('#session-known').hidden")
        assert page.run("location.hash") == "#session=1"
        assert page.text("#session-heading") == "Session 1"
        assert "Waits for an upstream that can be connected" in page.text("#session-says")
        assert "accepted\nclient accepted" in page.text("#session-trail")

        with upstream(port) as is_ready:
            page.until(says("#session-trail", "authenticated"))
            is_ready.set()
            page.until(says("#session-trail", "processing\n"))
            assert page.text("#session-says").startswith("Ready after ")
            client.close()
            page.until(says("#session-says", "Ended by the client after "))
        assert page.text("#session-says").endswith(
            ": client closed; the client was told 1000, the upstream was told 1000."
        )
        assert page.text("#announcement") == "Session 1 has ended."
        assert "processing_ready" in page.text("#session-trail")
        assert "closed\n" in page.text("#session-trail")

        page.press("Escape")

        page.until("!document.querySelector('#session').open")
        page.until("location.hash === ''")


def test_sessions_that_have_ended_can_be_looked_at_and_those_forgotten_are_named(
    start, admin: str, page: Page
) -> None:
    entry = start(proxy.free_port())
    connect(f"ws://127.0.0.1:{entry}/chat").close()
    wait_until(lambda: snapshot(admin)["totals"]["sessions_ended"] == 1, 5)

    open_live(page, admin)
    page.run("document.querySelector('#states [data-state=closed]').click()")

    page.until("location.hash === '#ended=true&state=closed'")
    page.until("document.querySelectorAll('#sessions-rows tr').length === 1")
    assert page.run("document.querySelector('#sessions-ended').value") == "true"
    assert "closed: client_closed" in page.text("#sessions-rows")
    page.run("document.querySelector('#sessions-rows a').click()")
    page.until(says("#session-says", "Ended by the client after "))
    page.until("document.querySelector('#session').classList.contains('ended')")
    assert page.run("document.querySelector('#session-ledger [data-name=discarded]') !== null")
    page.run("location.hash = '#session=99'")
    page.until(says("#session-says", "Session 99 ended too long ago, or there never was one."))
    assert page.failed == [f"{admin}/sessions/99"]


def test_the_address_keeps_what_is_open(start, admin: str, page: Page) -> None:
    entry = start(proxy.free_port())
    with connect(f"ws://127.0.0.1:{entry}/one"), connect(f"ws://127.0.0.1:{entry}/two"):
        open_live(page, f"{admin}/#state=accepted&sort=waiting&session=2")

        page.until("document.querySelector('#session-path').innerText === '/two'")
        page.run("document.querySelector('#session-close').click()")
        page.until("location.hash === '#state=accepted&sort=waiting'")
        page.run("document.querySelector('#sessions-section').scrollIntoView()")
        page.until("document.querySelectorAll('#sessions-rows tr').length === 2")
        assert page.run("document.querySelector('#sessions-state').value") == "accepted"
        rows = "[...document.querySelectorAll('#sessions-rows a')].map((it) => it.innerText)"
        assert page.run(rows) == ["#1", "#2"]

        page.run("document.querySelector('#states [data-state=idle]').click()")

        page.until("document.querySelectorAll('#sessions-rows tr').length === 0")
        assert page.text("#sessions-empty") == "None like that."
        assert page.run("location.hash") == "#state=idle"


def test_a_thousand_sessions_are_shown_in_few_rows_that_stay(
    start, admin: str, page: Page, measured
) -> None:
    entry = start(proxy.free_port())
    request = (
        f"GET /chat HTTP/1.1\r\nHost: 127.0.0.1:{entry}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()
    clients = [socket.create_connection(("127.0.0.1", entry)) for _ in range(SESSIONS)]
    try:
        for client in clients:
            client.sendall(request)
        open_live(page, f"{admin}/#sort=waiting")
        page.until("document.querySelector('#figure-sessions').innerText === '1,000'")
        page.run("document.querySelector('#sessions-section').scrollIntoView()")
        page.until("document.querySelectorAll('#sessions-rows tr').length === 25")
        assert page.run("document.querySelectorAll('#waiting-rows tr').length") == 10
        assert page.text("#sessions-note") == "1,000 sessions; the 25 that wait the longest"
        elements = page.run("document.querySelectorAll('*').length")
        page.run(
            "marked = document.querySelector('#waiting-rows tr'); marked.querySelector('a').focus();"
            "waited = marked.querySelector('.now').innerText"
        )

        page.until("marked.querySelector('.now').innerText !== waited")

        assert page.run("marked === document.querySelector('#waiting-rows tr')")
        assert page.run("document.activeElement === marked.querySelector('a')")
        assert elements < 1500
        measured(f"{SESSIONS} sessions in {elements} elements")
    finally:
        for client in clients:
            client.close()


def test_what_clients_say_stays_text(start, admin: str, page: Page) -> None:
    entry = start(proxy.free_port())
    with connect(f"ws://127.0.0.1:{entry}/%3Cscript%3E"):
        wait_until(lambda: snapshot(admin)["waiting"], 5)
        shown = snapshot(admin)
    path = "<img src=x onerror='document.title = 1'><script>document.title = 2</script>"
    shown["waiting"][0] |= {"path": path, "last_connect_error": path}
    shown["routes"][0]["route"] = path
    page.replace(f"{admin}/events", events(shown))

    page.open(admin)

    page.until("document.querySelector('#waiting-rows .path')")
    assert page.text("#waiting-rows .path") == path
    assert page.text("#routes-rows .path") == path
    assert page.run("document.querySelectorAll('main img, main script').length") == 0
    assert page.run("document.title") == "1 waiting – readygate"


def test_the_time_to_ready_is_a_time_and_no_bound_of_a_bucket(
    start, admin: str, page: Page
) -> None:
    start(proxy.free_port())
    shown = snapshot(admin)
    bounds = shown["time_to_ready"]["le_s"]

    def show(times: list[float]) -> None:
        buckets = [next(le for le in bounds if le is None or time <= le) for time in times]
        counts = [buckets.count(le) for le in bounds]
        shown["time_to_ready"] |= {"count": len(times), "sum_s": sum(times), "counts": counts}
        page.replace(f"{admin}/events", events(shown))
        page.open("about:blank")
        page.open(admin)
        page.until("document.querySelector('#figure-ready').innerText !== '–'")

    show([70])
    assert page.text("#figure-ready") == "1 min 10 s"
    assert page.text("#figure-ready-note") == "95 % within 1 min 10 s"
    assert "1 session: half within 1 min 10 s" in page.text("#ready-note")

    # Where there are others as well, a bucket tells no more than this: from 60 s to 120 s.
    assert {60, 120} <= set(bounds)
    show([0.001, 70, 80, 90])
    assert page.text("#figure-ready") == "about 1 min 20 s"
    show([0.001, 1000, 1000])
    assert page.text("#figure-ready") == "over 120 s"


def test_a_message_that_has_come_in_part_is_named(start, admin: str, page: Page) -> None:
    entry = start(proxy.free_port())
    with connect(f"ws://127.0.0.1:{entry}/chat") as client:
        # 30 bytes of 100, under a mask of zeros.
        client.socket.sendall(b"\x82\xe4" + bytes(4) + b"x" * 30)

        open_live(page, f"{admin}/#session=1")

        page.until(says("#waiting-rows", "part of a message"))
        page.until(says("#session", "part of a message"))
        assert "nothing" not in page.text("#waiting-rows")
        assert "nothing is queued" not in page.text("#session")


def test_a_path_is_broken_only_without_room_for_it(start, admin: str, page: Page) -> None:
    entry = start(proxy.free_port())
    path = "/conversations/of-some-customer"
    with connect(f"ws://127.0.0.1:{entry}{path}"):
        wait_until(lambda: snapshot(admin)["waiting"], 5)
        shown = snapshot(admin)
    shown["waiting"][0]["last_connect_error"] = "it could be broken at every blank " * 10
    page.replace(f"{admin}/events", events(shown))
    page.open(admin)
    page.until("document.querySelector('#waiting-rows .path')")
    lines = """(() => {
      const range = document.createRange();
      range.selectNodeContents(document.querySelector("#waiting-rows .path"));
      return new Set([...range.getClientRects()].map(({ top }) => top)).size;
    })()"""

    assert page.run(lines) == 1

    shown["waiting"][0]["path"] = path * 5
    page.replace(f"{admin}/events", events(shown))
    page.open("about:blank")
    page.open(admin)
    page.until(says("#waiting-rows .path", path * 5))
    assert page.run(lines) > 1
    assert page.run("document.documentElement.scrollWidth") <= 1280


def test_losses_are_named_and_red(start, admin: str, page: Page) -> None:
    entry = start(proxy.free_port(), route='hold = { overflow = "shed", max_messages = 1 }')
    with connect(f"ws://127.0.0.1:{entry}/chat") as client:
        for _ in range(3):
            client.send("then")
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{entry}/a/../b", timeout=5)

        open_live(page, admin)

        page.until("document.querySelector('#figure-lost.loss')?.innerText === '2'")
        shed = "document.querySelector('#ledger-rows [data-name=shed] .loss').innerText"
        assert page.run(shed) == "2"
        assert page.run("document.querySelector('#routes-rows .loss').innerText") == "2"
        assert page.text("#rejections-rows .loss") == "1"
        colour = "getComputedStyle(document.querySelector('#figure-lost')).color"
        assert page.run(colour) == "rgb(179, 32, 44)"
        sign = "getComputedStyle(document.querySelector('#figure-lost'), '::before').content"
        assert "▲" in page.run(sign)


def test_a_breaker_that_is_open_is_named(start, admin: str, page: Page) -> None:
    def answer_nonsense(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            connection.sendall(b"nonsense\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as upstream:
        threading.Thread(target=answer_nonsense, args=[upstream], daemon=True).start()
        breaker = 'breaker = { failures = 1, cooldown = "1h" }'
        entry = start(upstream.getsockname()[1], route=breaker)
        with connect(f"ws://127.0.0.1:{entry}/chat") as client, pytest.raises(ConnectionClosed):
            client.recv(timeout=5)

        open_live(page, admin)

        page.until(
            "document.querySelector('#routes-rows .loss')?.innerText.startsWith('open, probe in ')"
        )


def test_a_breaker_that_probes_is_named(start, admin: str, page: Page) -> None:
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        breaker = 'breaker = { failures = 1, cooldown = "100ms" }'
        entry = start(upstream.getsockname()[1], route=breaker)
        with connect(f"ws://127.0.0.1:{entry}/chat") as client:
            with upstream.accept()[0] as connection:
                connection.sendall(b"nonsense\r\n\r\n")
            with pytest.raises(ConnectionClosed):
                client.recv(timeout=5)

        def let_in() -> bool:
            try:
                probes.append(connect(f"ws://127.0.0.1:{entry}/chat", legacy=True))
            except InvalidStatus as refused:
                assert refused.response.status_code == 503
            return bool(probes)

        # Its backend does not answer, so that it goes on.
        probes: list[ClientConnection] = []
        wait_until(let_in, 10)
        with probes[0]:
            open_live(page, admin)

            page.until(
                "document.querySelector('#routes-rows .loss')?.innerText === 'half open, a few at a time'"
            )


# What a line of a chart says that there was in all: the area below it.
DRAWN = """
((chart, line) => {
  const figure = document.querySelectorAll("#charts figure")[chart];
  const [number, unit] = figure.querySelector(".axis span").innerText.replace(/,/g, "").split(" ");
  const top = number * { KiB: 1024, MiB: 1024 ** 2 }[unit] || Number(number);
  const path = figure.querySelectorAll("[role=img] path:not(.rule)")[line].getAttribute("d");
  const points = path.split(/[ML]/).slice(1).map((point) => point.split(" ").map(Number));
  return points.slice(1).reduce(
    (sum, [x, y], index) => sum + (x - points[index][0]) * top * (1 - y / 100), 0);
})(%d, %d)
"""


def test_the_charts_show_what_is_sent(start, admin: str, page: Page, measured) -> None:
    port = proxy.free_port()
    entry = start(port)
    url = f"ws://127.0.0.1:{entry}/chat"
    figures = "[...document.querySelectorAll('#charts figure:nth-child(-n+2) .legend b')]"
    texts = f"{figures}.map((it) => it.innerText)"
    with upstream(port, echoes=2) as is_ready, connect(url) as client:
        is_ready.set()
        assert client.recv(timeout=5) == "ready"
        open_live(page, admin)
        page.until(f"{texts}.join() === '0.0,0.0,0 B,0 B'")

        page.run(f"seen = {texts}; setInterval(() => {figures}.forEach((it, index) => "
                 "seen[index] = parseFloat(it.innerText) > 0 ? it.innerText : seen[index]), 50); 0")
        sent = 0
        while page.run("seen.some((text) => !(parseFloat(text) > 0))"):
            for _ in range(20):
                client.send("x" * 100)
                for _ in range(2):
                    client.recv(timeout=5)
            sent += 20
        page.until(f"{texts}.join() === '0.0,0.0,0 B,0 B'")

        # With their headers; those of clients have masks.
        expected = {(0, 0): sent, (0, 1): 2 * sent, (1, 0): 106 * sent, (1, 1): 2 * 102 * sent}
        for line, amount in expected.items():
            # A tenth of a second is the least that a place on the picture tells.
            assert page.run(DRAWN % line) == pytest.approx(amount, rel=0.25), line
        measured(f"{sent} messages drawn as {page.run(DRAWN % (0, 0)):.0f}")


def test_the_use_of_every_limit_is_shown(start, admin: str, page: Page) -> None:
    start(proxy.free_port())
    shown = snapshot(admin) | {
        "busiest_address": {"connections": {"open": 3, "limit": 12}, "session_rate_used": 0.5},
        "session_rate_used": None,
        "memory": {"bytes": 3 << 20, "bytes_limit": 4 << 20},
        "fullest_queue": 1,
    }
    page.replace(f"{admin}/events", events(shown))

    page.open(admin)

    page.until(says("#limits-rows", "3.0 MiB of 4.0 MiB"))
    line = "document.querySelector('#limits-rows [data-name=\"%s\"]')"
    for name, text, width in (
        ("Connections of the busiest address", "3 of 12", "25%"),
        ("New sessions of the busiest address", "50 % used", "50%"),
        ("The fullest queue of a session", "100 % used", "100%"),
        ("Memory", "3.0 MiB of 4.0 MiB", "75%"),
        ("New sessions", "no limit", None),
    ):
        node = line % name
        assert text in page.run(f"{node}.innerText")
        if width is None:
            assert page.run(f"{node}.querySelector('.bar').hidden")
        else:
            assert page.run(f"{node}.querySelector('.bar > div').style.width") == width


def test_a_drain_and_a_worker_that_does_not_answer_are_named(
    start, admin: str, page: Page
) -> None:
    entry = start(proxy.free_port())
    shown = snapshot(admin)
    with connect(f"ws://127.0.0.1:{entry}/chat") as client:
        client.send("then")
        open_live(page, admin)
        page.until("document.querySelectorAll('#waiting-rows tr').length === 1")
        drain = urllib.request.Request(f"{admin}/drain", method="POST")
        assert urllib.request.urlopen(drain, timeout=5).status == 202

        page.until(says("#notices", "Draining: new clients are to go elsewhere, 1 session left."))

        assert page.text("#announcement") == "The proxy drains."
    shown["workers"][0]["has_answered"] = False
    page.replace(f"{admin}/events", events(shown))
    page.open("about:blank")
    page.open(admin)
    page.until(says("#notices", "Worker 0 does not answer"))


def test_without_a_connection_old_numbers_are_grey_until_there_is_one(
    start, admin: str, page: Page, processes
) -> None:
    entry = start(proxy.free_port())
    with connect(f"ws://127.0.0.1:{entry}/chat"):
        open_live(page, admin)
        page.until("document.querySelector('#figure-sessions').innerText === '1'")
        colour = "getComputedStyle(document.querySelector('#figure-sessions')).color"
        before = page.run(colour)

        processes.named("readygate").stop()

        page.until("document.body.dataset.connection === 'lost'")
        assert page.text("#connection").startswith("Not connected")
        assert page.text("#announcement") == "Not connected. The numbers are old."
        assert page.text("#figure-sessions") == "1"
        assert page.run(colour) != before
    start(proxy.free_port())

    page.until("document.body.dataset.connection === 'live'")

    page.until("document.querySelector('#figure-sessions').innerText === '0'")
    assert page.text("#announcement") == "Connected again."


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_nobody_is_kept_out(
    width: int, scheme: str, start, admin: str, page: Page, measured
) -> None:
    axe = Path(os.environ["NODE_PATH"]) / "axe-core" / "axe.min.js"
    entry = start(proxy.free_port(), route='hold = { overflow = "shed", max_messages = 1 }')
    page.show(width, 800, scheme)
    # What the policy of the page forbids, the checker does.
    page.call("Page.setBypassCSP", enabled=True)
    path = "/a-long-path-without-a-place-to-break-it" * 5
    with connect(f"ws://127.0.0.1:{entry}{path}") as client:
        client.send("then")
        client.send("then")
        for hash in ("", "#session=1"):
            page.open("about:blank")
            open_live(page, f"{admin}/{hash}")
            page.until("document.querySelectorAll('#waiting-rows tr').length === 1")
            page.until(f"document.querySelector('#session').open === {json.dumps(hash != '')}")
            page.run("document.querySelector('#sessions-section').scrollIntoView()")
            page.until("document.querySelectorAll('#sessions-rows tr').length === 1")

            assert page.run("document.documentElement.scrollWidth") <= width
            page.run(axe.read_text() + "; 0")
            found = page.run(
                "axe.run().then(({ violations, passes }) => [violations.map("
                "({ impact, id, nodes }) => [impact, id, nodes.map((it) => it.html)]), passes.length])"
            )
            assert found[0] == []
            measured(f"{found[1]} rules of axe hold at {hash or 'the overview'}")
