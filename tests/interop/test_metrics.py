"""The metrics as Prometheus's own tools judge them."""

import subprocess
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

from harness import proxy
from harness.backends import FASTAPI_AGENT
from test_agent import ask_at_once

PARSERS = {
    "text/plain": prometheus_text,
    "application/openmetrics-text": open_metrics,
}


@pytest.fixture
def admin_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """The port of the admin listener of every proxy of a test, of which there is one."""
    port = proxy.free_port()
    monkeypatch.setattr(proxy, "ADMIN", f"127.0.0.1:{port}")
    return port


def metrics(port: int, accept: str = "text/plain") -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read()


def test_promtool_finds_nothing_to_complain_about(
    admin_port: int, port_of, start_proxy
) -> None:
    port = start_proxy(FASTAPI_AGENT, port_of(FASTAPI_AGENT))
    ask_at_once("websockets", port)

    page = metrics(admin_port)

    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    assert b'readygate_handshakes_total{route="/",result="accepted"} 20' in page


@pytest.mark.parametrize("accept", PARSERS)
def test_the_client_library_of_prometheus_reads_both_formats(
    accept: str, admin_port: int, port_of, start_proxy
) -> None:
    start_proxy(FASTAPI_AGENT, port_of(FASTAPI_AGENT))

    page = metrics(admin_port, accept).decode()

    assert page.endswith("# EOF\n") == (accept != "text/plain")
    families = list(PARSERS[accept](page))
    assert len(families) > 30
    assert all(family.samples for family in families)
