"""TLS on both sides: clients on `websockets` and Node `ws`, an agent on uvicorn.

Clients and readygate find the authority where each of them looks by default.
"""

import asyncio

import pytest

from clients import CLIENTS
from harness import proxy
from harness.backends import FASTAPI_AGENT
from harness.certificates import Certificates
from harness.delivery import Delivery, answered, errors

LISTEN_SECONDS = 20
NORMAL_CLOSURE = 1000


@pytest.fixture
def certificates(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    made = Certificates.make(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(made.authority))
    return made


# aiohttp reads the authorities when it is imported.
@pytest.mark.parametrize("client", ["websockets", "node-ws"])
def test_over_tls_every_message_arrives_exactly_once_and_in_order(
    client: str, certificates: Certificates, processes, tmp_path, measured
) -> None:
    tls = ["--certificate", certificates.certificate, "--key", certificates.key]
    agent = processes.start("agent", [*FASTAPI_AGENT.command, *tls])
    upstream = agent.announcement(LISTEN_SECONDS)["port"]
    port = proxy.start(
        processes, tmp_path, upstream, FASTAPI_AGENT.gate, "", tls=certificates
    )
    plans = [FASTAPI_AGENT.plan(user=f"user-{user}") for user in range(10)]

    results = asyncio.run(CLIENTS[client](f"wss://127.0.0.1:{port}/", plans))

    delivery = Delivery.total(results)
    measured(f"{delivery.lost} of {delivery.sent} lost")
    assert errors(results) == []
    assert delivery.perfect, delivery
    assert all(answered(one, FASTAPI_AGENT.answer) == one.sent for one in results)
    assert {one.close_code for one in results} == {NORMAL_CLOSURE}
