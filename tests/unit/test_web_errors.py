"""Every error has a status and a line in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import streams.worker  # noqa: F401 - so that every error class of ours is known
from streams.domain import errors as domain
from streams.domain.errors import PlatformError, UnknownTopicError
from web.errors import HTTP_CODES, PROBLEMS, problem_of
from web.problems import problem

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `([a-z_]+)` \| (\d{3}) \| (yes|no) \|", re.MULTILINE)


def subclasses(type_=PlatformError):
    """Those of the project; a class with an underscore never leaves its module."""
    yield type_
    for child in type_.__subclasses__():
        if child.__module__.split(".")[0] in ("streams", "web", "agents", "tables") and child.__name__[0] != "_":
            yield from subclasses(child)


def documented():
    return {code: (status, answer) for code, status, answer in ROW.findall((ROOT / "docs/errors.md").read_text())}


def test_every_code_is_documented_with_its_status_and_whether_to_retry():
    expected = {}
    for type_ in subclasses():
        status = PROBLEMS[next(t for t in type_.__mro__ if t in PROBLEMS)].status
        expected[type_.code] = (str(status.value), "yes" if type_.retriable else "no")
    for http_status, (code, _) in HTTP_CODES.items():
        expected.setdefault(code, (str(int(http_status)), "no"))
    assert documented() == expected


def test_every_error_with_a_code_of_its_own_has_its_own_answer():
    missing = [t for t in subclasses() if "code" in vars(t) and t not in PROBLEMS]
    assert missing == []


def test_codes_are_unique():
    codes = [t.code for t in subclasses() if "code" in vars(t)]
    assert len(codes) == len(set(codes))


def test_a_subclass_is_answered_as_its_base():
    class SpecialError(UnknownTopicError):
        pass

    assert problem_of(SpecialError("x")) is PROBLEMS[UnknownTopicError]


@pytest.mark.parametrize("error", [domain.KafkaAccessError, domain.RegistryAccessError, domain.ConfigurationError])
def test_what_is_hidden_from_clients_is_in_the_log(error, caplog):
    from web import problems

    problems._said_at.clear()
    for _ in range(3):
        problem(error("the password of 10.0.0.7 is wrong"), "/x")
    assert [r.getMessage() for r in caplog.records] == [f"{error.code}: the password of 10.0.0.7 is wrong"]
