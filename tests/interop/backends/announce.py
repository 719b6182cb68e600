"""How a Python backend takes its port and says that it listens."""

import argparse
import json
import time


def arguments(description: str) -> argparse.ArgumentParser:
    """The arguments that every backend has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    return parser


def listening(port: int) -> None:
    """Prints one JSON line: the port, and when the backend began to listen."""
    print(json.dumps({"port": port, "listening_at": time.time()}), flush=True)
