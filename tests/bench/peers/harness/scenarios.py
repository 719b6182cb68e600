"""What is measured."""

from dataclasses import dataclass

CONNECTIONS = 64
LARGE_BYTES = 16 * 1024

# Bounds on the ratio to the relay, from the project's design.
SMALL_BOUND = 1.05
HUGE_BOUND = 0.90
# System calls per message of at most 1 KiB.
CALLS_BOUND = 4.2


@dataclass(frozen=True)
class Scenario:
    """One kind of traffic."""

    name: str
    # The load generator's scenario, and its options.
    load: tuple
    unit: str
    # The most that CPU per unit may be, as a multiple of the relay's.
    bound: float | None = None
    calls_bound: float | None = None
    is_large: bool = False
    # Of seconds: until buffers are full and pipes flow.
    warm_up: float = 0.3
    # Messages to count system calls over; 0: not counted.
    traced: int = 0


def echo(payload, in_flight):
    """Messages of `payload` bytes back and forth."""
    is_large = payload >= LARGE_BYTES
    is_huge = payload > LARGE_BYTES
    options = ("--payload", payload, "--in-flight", in_flight, "--connections", CONNECTIONS)
    return Scenario(
        name=f"echo:{payload}:{in_flight}",
        load=("echo", *map(str, options)),
        unit="message",
        bound=HUGE_BOUND if is_huge else SMALL_BOUND,
        calls_bound=CALLS_BOUND if in_flight == 1 and not is_large else None,
        is_large=is_large,
        # 16 in flight on each of 64 connections are 256 MiB, which take a second to settle.
        warm_up=1.0 if is_huge and in_flight > 1 else 0.3,
        traced=(640 if is_huge else 6400) if in_flight == 1 else 0,
    )


PAYLOADS = (32, 128, 1024, 16 * 1024, 256 * 1024)

LOADED = [echo(payload, in_flight) for payload in PAYLOADS for in_flight in (1, 16)] + [
    Scenario("connect", ("connect", "--connections", "16"), "cycle", bound=1.20),
    Scenario("http", ("http", "--connections", str(CONNECTIONS)), "request", bound=1.80),
]
FLUSH = "flush"
IDLE = "idle"
HELD = "held"

ALL = [scenario.name for scenario in LOADED] + [FLUSH, IDLE, HELD]
QUICK = ["echo:128:1", "echo:128:16", "echo:16384:1", "echo:262144:1", "connect", "http"] + [
    FLUSH,
    IDLE,
    HELD,
]


def loaded(names):
    """The scenarios under load among `names`: the usual ones, and echoes of any size."""
    usual = [scenario for scenario in LOADED if scenario.name in names]
    known = {scenario.name for scenario in LOADED}
    others = [echo_named(name) for name in names if name not in known]
    return usual + [scenario for scenario in others if scenario]


def echo_named(name):
    """The scenario that `echo:BYTES:N` stands for, or None."""
    match name.split(":"):
        case ["echo", payload, in_flight] if payload.isdecimal() and in_flight.isdecimal():
            return echo(int(payload), int(in_flight))
        case _:
            return None
