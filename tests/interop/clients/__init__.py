"""Real WebSocket clients which all follow the same `Plan`, and how to run them."""

from clients import aiohttp_client, node_ws, websockets_client
from clients.conversation import Plan, Result

CLIENTS = {
    "websockets": websockets_client.run,
    "aiohttp": aiohttp_client.run,
    "node-ws": node_ws.run,
}

__all__ = ["CLIENTS", "Plan", "Result"]
