"""Checks the report of fixed records."""

import tempfile
import unittest
from pathlib import Path

from .cli import Records
from .proxies import Proxy, all_proxies
from .report import Results, render

MIB = 1024 * 1024


def load(proxy, number, micros):
    """What one round of a scenario of 1 000 messages says."""
    return {
        "kind": "load",
        "scenario": "echo:128:1",
        "proxy": proxy,
        "round": number,
        "messages": 1000,
        "seconds": 1.0,
        "cpu_seconds": micros / 1000,
        "p50_us": 1.0,
        "p99_us": 2.0,
        "errors": 0,
    }


def idle(proxy, bytes_per_session, left):
    """Memory of 1 024 sessions, before which there was 1 MiB."""
    steps = {"before": 1.0, "open": 1.0 + bytes_per_session / 1024, "closed": left, "later": left}
    sizes = {
        step: {"resident": int(size * MIB), "private_dirty": 0} for step, size in steps.items()
    }
    return {"kind": "memory", "scenario": "idle", "proxy": proxy, "sessions": 1024, **sizes}


def failure(scenario, proxy):
    return {"kind": "failed", "scenario": scenario, "proxy": proxy, "why": "it fell | over"}


def report(*records):
    return render(Results(list(records)), "## Heading")


class Report(unittest.TestCase):
    def test_a_figure_of_ours_above_its_bound_is_marked_and_named(self):
        records = [load("relay", 0, 10.0), load("readygate", 0, 12.0), load("nginx", 0, 30.0)]
        text = report(*records, idle("readygate", 4096, 1.5), idle("nginx", 9000, 1.0))

        self.assertIn("  - echo:128:1: readygate, × relay 1.20 of 1.05\n", text)
        self.assertIn("  - idle: readygate, RSS B/session 4,096.00 of 2,048.00\n", text)
        self.assertIn("  - idle: readygate, later / before 1.50 of 1.20\n", text)
        self.assertIn("| **1.20 (1.20–1.20)** | 3.00 (3.00–3.00) |", text)
        self.assertIn("| readygate | **4,096** |", text)
        self.assertNotIn("nginx,", text)

    def test_figures_within_their_bounds_are_not_marked(self):
        text = report(load("relay", 0, 10.0), load("readygate", 0, 10.4), idle("readygate", 99, 1.1))

        self.assertIn("- no figure of ours is above its bound\n", text)
        self.assertNotIn("**", text)

    def test_the_ratio_to_all_relays_is_to_their_mean_in_the_same_round(self):
        rounds = [
            [load("relay", number, 8.0), load("relay-copy", number, 10.0)]
            + [load("relay-copy-2", number, 12.0), load("readygate", number, 11.0)]
            for number in range(3)
        ]
        text = report(*sum(rounds, []))

        self.assertIn("| **1.38 (1.38–1.38)** · 1.10 |", text)
        self.assertIn("| 1.25 (1.25–1.25) · 1.00 | 1.50 (1.50–1.50) · 1.20 |", text)

    def test_what_failed_is_said_beside_what_did_not(self):
        records = [load("relay", 0, 10.0), load("caddy", 0, 20.0), failure("echo:128:1", "caddy")]
        text = report(
            *records, failure("echo:128:1", "envoy"), idle("nginx", 1, 1), failure("idle", "caddy")
        )

        self.assertIn("| echo:128:1 | envoy | it fell \\| over |", text)
        self.assertIn("| 2.00 (2.00–2.00) **failed** |", text)
        self.assertIn("| caddy, **failed** | 20.00 (20.00–20.00) |", text)
        self.assertIn("| envoy, **failed** |  |", text)
        self.assertIn("### idle: 1,024 sessions", text)
        self.assertIn("| idle | caddy |", text)

    def test_only_failures_are_a_report_too(self):
        text = report(failure("connect", "relay"), failure("flush", "readygate"))
        self.assertIn("| flush | readygate |", text)

    def test_a_row_that_failed_is_left_out_of_its_scenario_alone(self):
        calls = []

        def measure():
            calls.append(1)
            raise RuntimeError("it fell over")

        with tempfile.TemporaryDirectory() as directory:
            records = Records(Path(directory) / "records")
            for scenario in ("connect", "connect", "http"):
                records.take("load", scenario, Proxy("caddy", ()), measure)
        self.assertEqual(records.failed, [("connect", "caddy"), ("http", "caddy")])
        self.assertEqual(len(calls), 2)
        self.assertEqual(records.all[0]["why"], "load: it fell over")

    def test_the_relay_is_measured_as_often_as_asked(self):
        rows = [[row.name for row in all_proxies("tools", {}, {}, copies)] for copies in (0, 3)]
        self.assertEqual(rows[0], ["relay", "relay-splice"])
        self.assertEqual(rows[1][:4], ["relay", "relay-copy", "relay-copy-2", "relay-copy-3"])


if __name__ == "__main__":
    unittest.main()
