"""Names, which schemas take for any text."""

import re
from collections.abc import Iterable

LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""Of a service, a container and a volume: one that may stand in a host's name (RFC 1035)."""


def unusable(names: Iterable[str], form: re.Pattern[str] = LABEL) -> list[str]:
    """Names of another form."""
    return [f"{one!r} is no name" for one in names if not form.fullmatch(one)]
