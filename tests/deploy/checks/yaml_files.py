"""What all YAML files have in common."""

from pathlib import Path
from typing import Any

import yaml
from yamllint import config, linter

RULES = config.YamlLintConfig(
    """
extends: default
rules:
  line-length: {max: 120}
  document-start: disable
  comments: {min-spaces-from-content: 1}
"""
)


def problems(file: Path) -> list[str]:
    """What yamllint says, duplicate keys and truthy words among it."""
    return [str(one) for one in linter.run(file.read_text(), RULES)]


def documents(file: Path) -> list[Any]:
    return [one for one in yaml.safe_load_all(file.read_text()) if one is not None]
