"""Checks the accounts of the machine."""

import unittest

from .machine import TICKS, Usage, busy_and_stolen, shares


class Machine(unittest.TestCase):
    def test_interrupts_are_time_that_a_core_is_busy(self):
        ticks = [7, 1, 5, 1000, 90, 2, 4, 3, 11, 12]
        stat = f"cpu  {' '.join(str(count * TICKS) for count in ticks)}\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
        self.assertEqual(busy_and_stolen(stat), (7 + 1 + 5 + 2 + 4, 3))

    def test_others_have_used_what_was_busy_without_what_is_our_own(self):
        before = Usage(elapsed=100.0, busy=50.0, stolen=1.0, own=10.0)
        after = Usage(elapsed=110.0, busy=64.0, stolen=2.0, own=19.0)
        self.assertEqual(shares(before, after, cores=2), (0.25, 0.05))

    def test_a_share_below_zero_is_shown_as_it_is(self):
        before = Usage(elapsed=0.0, busy=0.0, stolen=0.0, own=0.0)
        after = Usage(elapsed=10.0, busy=4.0, stolen=0.0, own=5.0)
        self.assertEqual(shares(before, after, cores=1), (-0.1, 0.0))


if __name__ == "__main__":
    unittest.main()
