"""Statistics over rounds."""

from statistics import mean, median
from typing import NamedTuple


class Summary(NamedTuple):
    """The median of some values, and between which they lie."""

    median: float
    least: float
    most: float


def summary(values):
    """The summary of `values`; None when there are none."""
    values = list(values)
    return Summary(median(values), min(values), max(values)) if values else None


def paired_ratios(values, base):
    """`values` as multiples of `base`, round by round.

    Both are {round: value}. Rounds that one of them lacks are left out: only values that
    were measured next to each other, on a machine in the same mood, are compared.
    """
    return [value / base[number] for number, value in sorted(values.items()) if number in base]


def means(series):
    """{round: mean}, of the {round: value} of several, as far as they have that round."""
    rounds = sorted({number for values in series for number in values})
    return {
        number: mean(values[number] for values in series if number in values)
        for number in rounds
    }


def rotated(items, turns):
    """`items`, beginning with another one each turn."""
    start = turns % len(items) if items else 0
    return items[start:] + items[:start]
