"""A Cloud Run service as `deploy/cloudrun` describes it, in a simulated instance."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cgroups
import instance
from cold_start import CLIENT_ADDRESS, CLIENTS
from early_end import MESSAGES
from harness.processes import wait_until

SECONDS = 60
HELD_SHARE = 0.25
"""The default of `limits.max_held_bytes`."""


@pytest.fixture(scope="module")
def cgroup() -> Iterator[Path | None]:
    """A folder with a memory cgroup for each container."""
    containers = instance.containers().values()
    with cgroups.limited({one.name: one.memory_bytes for one in containers}) as folder:
        yield folder


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, cgroup: Path | None) -> dict:
    """What the clients of one instance saw, from its cold start to its end."""
    return played("cold_start.py", tmp_path_factory.mktemp("logs"), cgroup)


@pytest.fixture(scope="module")
def seen_early(tmp_path_factory: pytest.TempPathFactory, cgroup: Path | None) -> dict:
    """What those of one saw that ended before its backend listened."""
    return played("early_end.py", tmp_path_factory.mktemp("logs"), cgroup)


def played(scene: str, logs: Path, cgroup: Path | None) -> dict:
    program = [sys.executable, Path(__file__).parent / scene, logs]
    # Processes and ports of its own; all of it ends with its first process.
    own = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*own, *program, *([cgroup] if cgroup else [])],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def environment() -> dict[str, str]:
    here = Path(__file__).parent
    return os.environ | {"PYTHONPATH": f"{here}:{here.parent / 'interop'}"}


def test_all_clients_of_a_cold_start_have_their_101_before_the_backend_listens(
    seen: dict,
) -> None:
    assert seen["errors"] == []
    assert seen["waited_for_backend"] == seen["sessions"] == CLIENTS


def test_nothing_is_lost_though_the_instance_has_no_cpu_for_a_while(seen: dict) -> None:
    delivery = seen["delivery"]

    assert delivery["sent"] >= CLIENTS * 30
    assert (delivery["lost"], delivery["doubled"], delivery["out_of_order"]) == (
        0,
        0,
        0,
    )


def test_no_container_runs_while_the_instance_has_no_cpu(seen: dict) -> None:
    assert seen["states_without_cpu"] == dict.fromkeys(instance.containers(), "T")


def test_a_container_may_open_as_many_files_as_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fewer than this machine allows, which may itself be below Cloud Run's number.
    monkeypatch.setattr(instance, "DESCRIPTORS", 100)
    one = instance.Instance(
        dict.fromkeys(instance.containers(), ["sleep", "60"]), None, tmp_path
    )
    one.start()
    try:
        assert one.descriptors() == dict.fromkeys(instance.containers(), 100)
    finally:
        one.kill()


def test_a_container_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance, "KILL_SECONDS", 0.3)
    deaf = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"]
    commands = {"readygate": ["sleep", "60"], "backend": deaf}
    one = instance.Instance(commands, None, tmp_path)
    one.start()
    try:
        wait_until(lambda: one.log("backend") == "deaf\n", SECONDS)
        exits = asyncio.run(asyncio.wait_for(one.stop(), 10))
    finally:
        one.kill()

    assert exits == {"readygate": -signal.SIGTERM, "backend": -signal.SIGKILL}


def test_all_clients_are_closed_with_1001_before_the_instance_is_killed(
    seen: dict,
) -> None:
    assert seen["close_codes"] == [1001]
    assert seen["exits"]["readygate"] == 0
    assert seen["seconds_to_stop"] < instance.KILL_SECONDS


def test_an_end_before_the_backend_listens_closes_at_once_where_nothing_is_held(
    seen_early: dict,
) -> None:
    assert seen_early["silent"] == [1001, "shutting_down"]
    assert seen_early["left_after_silent"] == 1


def test_who_has_messages_held_is_told_of_them_before_the_instance_is_killed(
    seen_early: dict,
) -> None:
    undelivered = f"shutting_down; {MESSAGES} messages not delivered"
    assert seen_early["talking"] == [1001, undelivered]
    assert seen_early["exits"]["readygate"] == 0
    assert seen_early["seconds_to_stop"] < instance.KILL_SECONDS
    discarded = [line["discarded"] for line in sessions_in(seen_early["log"])]
    assert discarded == [0, MESSAGES]


def test_the_ledgers_in_the_log_add_up_to_what_was_sent(seen: dict) -> None:
    ended = sessions_in(seen["log"])

    # With the request for the report, which each client sends beside its numbered messages.
    sent = seen["delivery"]["sent"] + CLIENTS
    assert len(ended) == CLIENTS
    assert sum(line["accepted"] for line in ended) == sent
    assert sum(line["delivered"] for line in ended) == sent


def test_the_client_in_the_log_is_the_one_that_google_names(seen: dict) -> None:
    addresses = {line["httpRequest"]["remoteIp"] for line in sessions_in(seen["log"])}

    assert addresses == {CLIENT_ADDRESS}


def sessions_in(log: list[dict]) -> list[dict]:
    return [line for line in log if line["message"] == "session ended"]


def test_what_may_be_held_follows_from_the_memory_of_the_container(
    seen: dict, cgroup: Path | None
) -> None:
    memory = instance.containers()["readygate"].memory_bytes

    # Without a cgroup, readygate goes by the machine's memory.
    if cgroup:
        assert seen["held_limit_bytes"] == pytest.approx(memory * HELD_SHARE, rel=0.01)
    assert seen["held_limit_bytes"] > 0
