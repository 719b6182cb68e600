"""The JSON Schema of proxy.toml, as a validator that nobody here wrote applies it."""

import copy
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
ROUTE = '[[route]]\nupstream = "http://127.0.0.1:8081"\n'


def readygate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [os.environ["READYGATE"], *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads(readygate("config", "schema").stdout)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def shipped(has_examples: bool) -> dict:
    """The shipped file; its examples are the lines with a # that no space follows."""
    text = (ROOT / "proxy.toml").read_text()
    if has_examples:
        text = re.sub("^#(?! )", "", text, flags=re.MULTILINE)
    return tomllib.loads(text)


@pytest.mark.parametrize("has_examples", [False, True])
def test_the_shipped_file_is_valid(
    validator: Draft202012Validator, has_examples: bool
) -> None:
    assert [
        error.message for error in validator.iter_errors(shipped(has_examples))
    ] == []


def tables(value: object) -> Iterator[dict]:
    """All tables in a value, itself included; those whose keys are anybody's left out."""
    if isinstance(value, dict):
        yield value
        for key, inner in value.items():
            if key not in ("json", "close_codes"):
                yield from tables(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from tables(inner)


def test_a_misspelt_key_is_not_valid_whichever_it_is(
    validator: Draft202012Validator,
) -> None:
    document = shipped(has_examples=True)
    places = [
        (index, key) for index, table in enumerate(tables(document)) for key in table
    ]
    assert len(places) > 80
    for index, key in places:
        misspelt = copy.deepcopy(document)
        table = list(tables(misspelt))[index]
        table[key + "x"] = table.pop(key)
        assert not validator.is_valid(misspelt), key


GOOD = [
    "workers = 2",
    'workers = "${WORKERS:-2}"',
    'listen = "127.0.0.1:1"',
    'listen = [{ address = "127.0.0.1:1", h2c = "true" }]',
    'limits.max_connections = "7"',
    'limits.max_held_bytes = "100%"',
    "limits.max_uri_bytes = 4096",
    'limits.session_rate = ""',
    'log.format = "gcp"',
    ROUTE
    + 'gate.ready = [{ json = { "/a" = [1, true, "b"], "" = 1 } }, { first = true }]',
    ROUTE + 'gate.timeout = "1 m"',
    ROUTE + 'hold.max_age = "5s"',
    ROUTE + "connect.retry.jitter = 1",
    ROUTE + 'close_codes = { 404 = "4404" }',
]

BAD = [
    "workers = 0",
    'workers = "many"',
    "listen = 8080",
    "listen = []",
    "listen = [{ h2c = true }]",
    "limits.max_connections = 0",
    "limits.max_headers = 101",
    'limits.max_held_bytes = "0%"',
    'limits.max_uri_bytes = "8kb"',
    "limits.header_timeout = 10",
    'limits.header_timeout = "10"',
    'log.level = "loud"',
    'trusted_proxies = "private"',
    "route = []",
    '[[route]]\npath = "/"',
    ROUTE + 'gate.ready = { json = { "a" = 1 } }',
    ROUTE + "gate.ready = { json = {} }",
    ROUTE + 'gate.ready = { text = "a", prefix = "b" }',
    ROUTE + "gate.ready = { first = false }",
    ROUTE + 'gate.ready = { binary_prefix = "0" }',
    ROUTE + "gate.forward_ready = 1",
    ROUTE + 'message = [{ priority = "low" }]',
    ROUTE + 'message = [{ match = { on = "pong" } }]',
    ROUTE + "close_codes = { 101 = 4404 }",
    ROUTE + "close_codes = { 404 = 1016 }",
    ROUTE + "connect.retry.jitter = 1.5",
]


def with_route(text: str) -> str:
    return text if "route" in text else f"{text}\n{ROUTE}"


@pytest.mark.parametrize("text", GOOD + BAD)
def test_the_schema_and_the_program_are_of_one_mind(
    validator: Draft202012Validator, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text(with_route(text))

    checked = readygate("check", "--config", str(file))

    assert checked.returncode == (0 if text in GOOD else 78), checked.stderr
    document = tomllib.loads(with_route(text))
    assert validator.is_valid(document) == (text in GOOD)
