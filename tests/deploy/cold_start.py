"""A cold start and the end of a Cloud Run instance, with 250 clients; prints what they saw.

It has to be run in a network namespace of its own, as test_cloudrun.py does.
"""

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from websockets.asyncio.client import connect

from clients import Plan
from clients.conversation import Conversation, Result, hold
from harness.backends import FASTAPI_AGENT
from harness.delivery import Delivery, errors
from harness.proxy import binary
from instance import Instance

CLIENTS = 250
BACKEND_LISTENS_AFTER_SECONDS = 3
WITHOUT_CPU_SECONDS = 1.5
DEADLINE_SECONDS = 45
FRONT_END = "169.254.8.129"
"""Where requests come from: Google's front end has a link-local address."""
CLIENT_ADDRESS = "203.0.113.7"
PLAN = partial(Plan, early=20, trickle_ms=500, late=10, deadline_s=DEADLINE_SECONDS)


async def visit(port: int, user: int, reported: asyncio.Semaphore) -> Result:
    """One client: talks, learns what the backend has received, and stays."""
    conversation = Conversation(
        PLAN(ready=FASTAPI_AGENT.greetings[-1], user=f"user-{user}")
    )
    result = conversation.result
    try:
        async with (
            asyncio.timeout(DEADLINE_SECONDS),
            connect(
                f"ws://127.0.0.1:{port}/",
                proxy=None,
                open_timeout=DEADLINE_SECONDS,
                local_addr=(FRONT_END, 0),
                additional_headers={"X-Forwarded-For": CLIENT_ADDRESS},
            ) as client,
        ):
            await hold(conversation, client.send, partial(client.recv, decode=True))
            reported.release()
            await client.wait_closed()
        result.close_code = client.close_code
    except Exception as error:  # whatever the library raises is the result
        result.error = f"{type(error).__name__}: {error}"
        reported.release()
    return result


async def run(instance: Instance) -> dict:
    started = time.time()
    instance.start()
    port = await instance.until_requests_come_in()
    opened = time.time()
    reported = asyncio.Semaphore(0)
    clients = [
        asyncio.create_task(visit(port, user, reported)) for user in range(CLIENTS)
    ]
    await asyncio.sleep(BACKEND_LISTENS_AFTER_SECONDS / 2)
    held_limit = metric("readygate_held_limit_bytes")
    await instance.without_cpu(WITHOUT_CPU_SECONDS)
    for _ in range(CLIENTS):
        await reported.acquire()
    sessions = metric("readygate_handshakes_total", 'result="accepted"')
    stopping = time.time()
    exits = await instance.stop()
    stopped = time.time()
    results = await asyncio.gather(*clients)
    listening_at = json.loads(announcement(instance.log("backend")))["listening_at"]
    return {
        "clients": len(results),
        "errors": errors(results)[:5],
        "delivery": asdict(Delivery.total(results)),
        "seconds_to_open": opened - started,
        "waited_for_backend": sum(
            (one.opened_at or 0) < listening_at for one in results
        ),
        "sessions": sessions,
        "held_limit_bytes": held_limit,
        "states_without_cpu": instance.states_without_cpu,
        "close_codes": sorted({one.close_code for one in results}, key=str),
        "exits": exits,
        "seconds_to_stop": stopped - stopping,
        "log": instance.lines("readygate"),
    }


def announcement(log: str) -> str:
    return next(line for line in log.splitlines() if line.startswith("{"))


def metric(name: str, labels: str = "") -> float:
    """The sum of a metric's series, of those with such labels."""
    lines = admin("/metrics").splitlines()
    series = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
    assert series, f"there is no {name}"
    return sum(float(line.rsplit(" ", 1)[1]) for line in series if labels in line)


def admin(path: str) -> str:
    """What the admin listener says."""
    with urllib.request.urlopen(f"http://127.0.0.1:9901{path}", timeout=5) as answer:
        return answer.read().decode()


def play(
    scene: Callable[[Instance], Awaitable[dict]], backend: list[str | Path]
) -> None:
    """Prints what becomes of an instance with such a backend, in the folders that the
    arguments of this process name."""
    logs, cgroups = Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else None
    for command in ("link set lo up", f"address add {FRONT_END}/32 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    commands = {"readygate": [binary()], "backend": backend}
    print(json.dumps(asyncio.run(scene(Instance(commands, cgroups, logs)))))


def late_agent() -> list[str | Path]:
    # A container listens where its environment says.
    on_port = ["sh", "-euc", 'exec "$@" --port "$PORT"', "backend"]
    delay = ["--delay", str(BACKEND_LISTENS_AFTER_SECONDS)]
    return [*on_port, *FASTAPI_AGENT.command, *delay]


if __name__ == "__main__":
    play(run, backend=late_agent())
