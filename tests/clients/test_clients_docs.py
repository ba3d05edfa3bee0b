"""The snippets of docs/clients.md, run as they stand there but for address and key."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from yardmaster.tests.clients.spoken import calls, says

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "clients.md"
WAGON = '{"number": 7, "cargo": "coal"}'
TRACKS = calls("tracks", yard="Maschen")

# What is imported, what the model says, and what is printed, for each snippet of a section.
SECTIONS: dict[str, list[tuple[str, list[str], str]]] = {
    "OpenAI, Python": [
        ("openai", [says("A yard.")], "Thinking é\nA yard.\n"),
        ("openai", [says(WAGON)], "number=7 cargo='coal'\n"),
        ("openai", [says("A yard.")], "A yard."),
    ],
    "OpenAI, Node": [("", [says("A yard.")], "A yard.")],
    "Anthropic": [("anthropic", [says("A yard.")], "A yard.\n")],
    "OpenAI's agents SDK": [("agents", [TRACKS, says("It has 40.")], "It has 40.\n")],
    "LangChain": [("langchain_openai", [says("A yard."), TRACKS], "A yard.{'yard': 'Maschen'}\n")],
    "LiteLLM": [("litellm", [says("A yard.")], "A yard.\n")],
    "instructor": [("instructor", [says(WAGON)], "coal\n")],
    "pydantic-ai": [("pydantic_ai", [says(WAGON)], "number=7 cargo='coal'\n")],
}


def snippets() -> dict[str, list[tuple[str, str]]]:
    """Language and text of each snippet, by section."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    fenced = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return {section.partition("\n")[0]: fenced.findall(section) for section in sections}


def test_no_snippet_is_left_out() -> None:
    told = {name: len(found) for name, found in snippets().items() if found and found[0][0] != "bash"}
    assert told == {name: len(listed) for name, listed in SECTIONS.items()}


@pytest.mark.parametrize(("section", "at"), [(name, at) for name, each in SECTIONS.items() for at in range(len(each))])
def test_snippet(section: str, at: int, served: Any) -> None:
    module, spoken, printed = SECTIONS[section][at]
    language, text = snippets()[section][at]
    for old, new in (("http://127.0.0.1:8000", served.root), ('"none"', f'"{served.key}"')):
        assert old in text
        text = text.replace(old, new)
    served.plays(*spoken)
    if language == "js":
        if shutil.which("node") is None or not (HERE / "node" / "node_modules").is_dir():
            pytest.skip("needs node, and `npm ci` in tests/clients/node")
        command = ["node", "--input-type=module", "--eval", text]
        done = subprocess.run(command, cwd=HERE / "node", capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.stderr) == (printed, "")
    else:
        pytest.importorskip(module, reason="needs the extra `clients`")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(text, f"{PAGE.name}: {section}", "exec"), {"__name__": "snippet"})
        assert out.getvalue() == printed
    assert served.left == []
