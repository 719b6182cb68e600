"""Subprotocols and final refusals, where the 101 comes before the backend's answer.

Most Python servers name no subprotocol, clients of Kubernetes offer a token beside
one, and JupyterLab asks again for a kernel that is gone.
"""

import sys

import pytest

from clients.offers import MESSAGE, OFFERS, Told, offer
from harness import proxy
from harness.backends import FOLDER
from harness.processes import Processes

LISTEN_SECONDS = 20
KERNEL = "v1.kernel.websocket.jupyter.org"
BEARER = "base64url.bearer.authorization.k8s.io.ZXlKaGJHY2lPaUpTVXpJMU5pSjk"
JWT = "jwt.eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
K8S = "base64.binary.k8s.io"

each_client = pytest.mark.parametrize("client", OFFERS)


@pytest.fixture
def url_before(processes: Processes, tmp_path):
    """Starts a server, and readygate before it."""

    def start(server: str, *speaks: str) -> str:
        arguments = ["--server", server, "--speaks", *speaks]
        program = [sys.executable, FOLDER / "subprotocols.py", *arguments]
        started = processes.start(server, program)
        upstream = started.announcement(LISTEN_SECONDS)["port"]
        port = proxy.start(processes, tmp_path, upstream, gate="", rules="")
        return f"ws://127.0.0.1:{port}"

    return start


@each_client
@pytest.mark.parametrize("server", ["websockets", "aiohttp", "starlette"])
def test_a_server_that_names_none_serves_who_offers_some(
    client: str, server: str, url_before
) -> None:
    url = url_before(server)

    offered = [(["a", "b"], "a"), ([BEARER, K8S], K8S), (["chat", JWT], "chat")]
    for offers, told in offered:
        learned = offer(client, f"{url}/", offers)
        assert (learned.subprotocol, learned.echo) == (told, MESSAGE), learned


@each_client
@pytest.mark.parametrize("server", ["websockets", "aiohttp"])
def test_a_client_is_told_what_the_server_speaks_next_time(
    client: str, server: str, url_before
) -> None:
    url = url_before(server, "b", K8S)

    first = offer(client, f"{url}/", ["a", "b"])
    assert (first.subprotocol, first.close_code) == ("a", 1014)
    for offers, told in [(["a", "b"], "b"), ([BEARER, K8S], K8S), (["b"], "b")]:
        learned = offer(client, f"{url}/", offers)
        assert (learned.subprotocol, learned.echo) == (told, MESSAGE), learned


@each_client
def test_who_offers_a_token_only_gets_the_servers_answer(
    client: str, url_before
) -> None:
    url = url_before("websockets", JWT)

    learned = offer(client, f"{url}/", [JWT])

    assert (learned.subprotocol, learned.echo) == (JWT, MESSAGE), learned


@each_client
def test_who_asks_again_for_what_is_gone_sees_the_404(
    client: str, url_before
) -> None:
    url = url_before("websockets", KERNEL)
    gone = f"{url}/gone/channels?session_id=1"

    learned = [offer(client, gone, [KERNEL]) for _ in range(4)]

    assert learned[0].close_code == 1014
    refused = {
        "websockets": Told(error="404: no such kernel\n"),
        "aiohttp": Told(error="404"),
        "node-ws": Told(close_code=1006, error="Unexpected server response: 404"),
    }
    assert learned[1:] == [refused[client]] * 3
    other = offer(client, f"{url}/there/channels?session_id=1", [KERNEL])
    assert (other.subprotocol, other.echo) == (KERNEL, MESSAGE), other
