"""The judges at hand, and a client whose answers they all see."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from yardmaster.tests.server.specs import open_responses_judge, openai_judge
from yardmaster.tests.server.specs.open_responses_judge import OpenResponsesJudge
from yardmaster.tests.server.specs.openai_judge import OpenAIJudge
from yardmaster.tests.server.specs.sdk_judge import SdkJudge


class Judge(Protocol):
    name: str

    def faults(self, kind: str, body: Any) -> list[str]: ...


def _document(variable: str, judge: Callable[[str], Judge]) -> Judge | None:
    """None where the variable is not set. A file that it names in vain is an error, not a test left out."""
    path = os.environ.get(variable)
    if not path:
        return None
    assert Path(path).is_file(), f"{variable} names {path}, which is no file"
    return judge(path)


@pytest.fixture(scope="session")
def openai_document() -> Judge:
    judge = _document(openai_judge.VARIABLE, OpenAIJudge)
    if judge is None:
        pytest.skip(f"{openai_judge.VARIABLE} names no copy of OpenAI's OpenAPI document")
    return judge


@pytest.fixture(scope="session")
def open_responses_document() -> Judge:
    judge = _document(open_responses_judge.VARIABLE, OpenResponsesJudge)
    if judge is None:
        pytest.skip(f"{open_responses_judge.VARIABLE} names no copy of the Open Responses OpenAPI document")
    return judge


@pytest.fixture(scope="session")
def judges() -> list[Judge]:
    """The SDKs' types, always; and each document that there is a copy of."""
    documents = (
        _document(openai_judge.VARIABLE, OpenAIJudge),
        _document(open_responses_judge.VARIABLE, OpenResponsesJudge),
    )
    return [SdkJudge(), *(judge for judge in documents if judge is not None)]


@pytest.fixture(scope="session")
def hold(judges: list[Judge]) -> Callable[[str, Any], Any]:
    """`hold(kind, body)`: all judges find `body` right; it is given back."""

    def check(kind: str, body: Any) -> Any:
        told = [f"{judge.name}: {fault}" for judge in judges for fault in judge.faults(kind, body)]
        assert not told, f"{kind}: " + "; ".join(told) + f" in {body!r:.1000}"
        return body

    return check
