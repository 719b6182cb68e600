"""The Node library `ws`, with its defaults, in a process of its own."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

from clients.conversation import Plan, Result

SCRIPT = Path(__file__).with_suffix(".mjs")


async def run(url: str, plans: list[Plan]) -> list[Result]:
    process = await asyncio.create_subprocess_exec(
        "node",
        SCRIPT,
        url,
        json.dumps([asdict(plan) for plan in plans]),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        # The script keeps the plans' deadlines; this one is for a script that hangs.
        async with asyncio.timeout(max(plan.deadline_s for plan in plans) + 10):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"{SCRIPT.name} exited with {process.returncode}")
    return [Result(**result) for result in json.loads(output)]
