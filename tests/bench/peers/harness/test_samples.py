"""Checks the statistics: python3 -m unittest discover -t . harness"""

import unittest

from .measure import parse_strace
from .samples import Summary, means, paired_ratios, rotated, summary
from .scenarios import loaded


class Samples(unittest.TestCase):
    def test_a_summary_has_the_median_and_both_ends(self):
        self.assertEqual(summary([3.0, 1.0, 9.0]), Summary(3.0, 1.0, 9.0))
        self.assertEqual(summary([1.0, 2.0]).median, 1.5)
        self.assertIsNone(summary([]))

    def test_ratios_compare_only_values_of_the_same_round(self):
        relay = {0: 10.0, 1: 20.0, 3: 1.0}
        self.assertEqual(paired_ratios({0: 11.0, 1: 20.0, 2: 5.0}, relay), [1.1, 1.0])

    def test_means_are_those_of_each_round_alone(self):
        self.assertEqual(means([{0: 1.0, 1: 4.0}, {0: 3.0, 2: 7.0}]), {0: 2.0, 1: 4.0, 2: 7.0})

    def test_every_proxy_is_first_once(self):
        order = [rotated(["a", "b", "c"], turn) for turn in range(4)]
        self.assertEqual([turn[0] for turn in order], ["a", "b", "c", "a"])
        self.assertEqual(order[1], ["b", "c", "a"])

    def test_an_echo_of_any_size_is_a_scenario(self):
        names = [scenario.name for scenario in loaded(["echo:70000:3", "connect", "echo:x:1"])]
        self.assertEqual(names, ["connect", "echo:70000:3"])

    def test_calls_are_read_from_straces_table(self):
        table = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000600           3       200           sendto
 40.00    0.000400           2       201         1 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.001000           2       401         1 total
"""
        self.assertEqual(parse_strace(table), {"sendto": 200, "recvfrom": 201})


if __name__ == "__main__":
    unittest.main()
