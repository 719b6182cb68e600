"""The Autobahn cases against an echo server, straight and through readygate.

The cases are those of the Autobahn TestSuite, run by `kosoku` as the fuzzing client:
sections 1 to 7 (framing, pings, reserved bits, opcodes, fragmentation, UTF-8, closing)
and 10. Through readygate a case has to end as it does without, in behaviour, closing
handshake and close code. In ten cases, listed in `MAY_BE_NON_STRICT` with the reason,
a client may miss an echo that it gets without readygate.

Sections 12 and 13 (permessage-deflate) send a thousand messages in each case and take many
minutes as a whole, so that only some of them are run: of every set of parameters the
messages of 1 KiB, and of 8 KiB in fragments. (With shorter ones some cases fail in kosoku
itself, before they send anything.)
"""

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from harness import proxy
from harness.backends import FOLDER
from harness.processes import Processes

EVERYTHING = [f"{section}.*" for section in (1, 2, 3, 4, 5, 6, 7, 10)]
CASES = 247
COMPRESSION = [
    f"{section}.{parameters}.{messages}"
    for section, sets in ((12, 5), (13, 7))
    for parameters in range(1, sets + 1)
    for messages in (4, 11)
]
AT_ONCE = 8
TIMEOUT_SECONDS = 120
LISTEN_SECONDS = 20
HOLD_MS = 300
TIMER_ERROR_MS = 20

PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}

# In these cases a good message comes right before a forbidden frame. Autobahn likes to
# see the echo of the one before the connection fails for the other ("OK"), but RFC 6455
# §7.1.7 does not ask for it ("NON-STRICT"). The echo server answers in that order.
# readygate refuses the frame itself, with the same close code, and does not wait for
# what the upstream may still have to say; and while the message is held, there is
# nobody yet who could have echoed it.
MAY_BE_NON_STRICT = {
    *("3.2", "3.3", "3.4"),  # reserved bits
    *("4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5"),  # reserved opcodes
    "5.15",  # a continuation without a start
}


@dataclass(frozen=True)
class Outcome:
    """How the server behaved in a case, and in the closing handshake at its end."""

    behavior: str
    close: str
    close_code: int | None
    duration_ms: int = field(compare=False)

    def __str__(self) -> str:
        return f"{self.behavior} (close: {self.close}, code {self.close_code})"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """The outcomes without readygate."""
    processes = Processes(tmp_path_factory.mktemp("autobahn"))
    try:
        return run_cases(start_echo(processes, delay_ms=0), "straight")
    finally:
        processes.stop()


def test_straight_to_the_backend_all_cases_pass(straight) -> None:
    failed = {case: one for case, one in straight.items() if one.behavior not in PASSED}

    assert len(straight) == CASES
    assert failed == {}


@pytest.mark.parametrize(
    ("name", "settle_ms", "handshake_delay_ms"),
    [
        ("open", 0, 0),
        ("held-before-the-upgrade", 0, HOLD_MS),
        ("held-after-the-upgrade", HOLD_MS, 0),
    ],
    ids=["open", "held-before-the-upgrade", "held-after-the-upgrade"],
)
def test_through_readygate_all_cases_behave_as_straight_to_the_backend(
    name: str, settle_ms: int, handshake_delay_ms: int, straight, processes, tmp_path
) -> None:
    upstream = start_echo(processes, handshake_delay_ms)
    gate = f'settle = "{settle_ms}ms"'
    port = proxy.start(processes, tmp_path, upstream, gate, rules="")

    through = run_cases(port, name)

    changed = [
        f"{case}: {straight[case]} became {outcome}"
        for case, outcome in through.items()
        if outcome not in allowed(case, straight[case])
    ]
    held_ms = settle_ms + handshake_delay_ms
    assert through.keys() == straight.keys()
    assert shortest_echo_ms(through) >= held_ms - TIMER_ERROR_MS
    assert not changed, "\n".join(changed)


def test_through_readygate_compressed_messages_are_echoed_as_straight_to_the_backend(
    processes, tmp_path
) -> None:
    upstream = start_echo(processes, delay_ms=0, arguments=("--compress",))
    gate = f'settle = "{HOLD_MS}ms"'
    route = 'accept = "after-upstream"'
    port = proxy.start(processes, tmp_path, upstream, gate, rules="", route=route)

    straight = run_cases(upstream, "compression-straight", COMPRESSION)
    through = run_cases(port, "compression", COMPRESSION)

    assert len(straight) == len(COMPRESSION)
    assert {one.behavior for one in straight.values()} == {"OK"}
    assert through == straight
    fastest_ms = min(one.duration_ms for one in through.values())
    assert fastest_ms >= HOLD_MS - TIMER_ERROR_MS


def allowed(case: str, straight: Outcome) -> set[Outcome]:
    """The outcomes that a case may have through readygate."""
    non_strict = replace(straight, behavior="NON-STRICT")
    return {straight, non_strict} if case in MAY_BE_NON_STRICT else {straight}


def shortest_echo_ms(outcomes: dict[str, Outcome]) -> int:
    """The shortest case that waits for an echo: section 1 has no others."""
    return min(
        one.duration_ms for case, one in outcomes.items() if case.startswith("1.")
    )


def start_echo(
    processes: Processes, delay_ms: int, arguments: tuple[str, ...] = ()
) -> int:
    """Starts the echo server and returns its port."""
    delay = ["--handshake-delay", str(delay_ms)]
    echo = processes.start("echo", ["node", FOLDER / "echo.mjs", *delay, *arguments])
    return echo.announcement(LISTEN_SECONDS)["port"]


def run_cases(
    port: int, name: str, cases: Iterable[str] = EVERYTHING
) -> dict[str, Outcome]:
    """Runs the cases against a port; reports for people stay in a folder `name`."""
    reports = Path(os.environ["READYGATE_INTEROP_REPORTS"]) / name
    (reports / "index.json").unlink(missing_ok=True)
    included = [part for case in cases for part in ("-i", case)]
    run = subprocess.run(
        ["kosoku", f"127.0.0.1:{port}", "-p", str(AT_ONCE), "-o", reports, *included],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    index = reports / "index.json"
    assert index.exists(), f"kosoku wrote no report:\n{run.stdout}{run.stderr}"
    # One entry per value of the Server header, which the early 101 may lack.
    return {
        case: Outcome(
            entry["behavior"],
            entry["behaviorClose"],
            entry["remoteCloseCode"],
            entry["duration"],
        )
        for cases in json.loads(index.read_text()).values()
        for case, entry in cases.items()
    }
