"""A folder forgotten in pyproject's `packages` would leave the wheel without a word."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
OUTSIDE = {"tests", "bench", "docs", "build", "deploy"}


def test_every_folder_with_code_is_packaged():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in ROOT.rglob("*.py")}
    wanted = {
        ".".join(("yardmaster", *folder.parts))
        for folder in folders
        if not any(part in OUTSIDE or part.startswith(".") for part in folder.parts)
    }
    assert wanted == set(listed)


def test_folders_are_namespaces_and_the_root_holds_two_modules():
    assert [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("__init__.py") if ".venv" not in path.parts] == [
        "__init__.py"
    ]
    assert sorted(path.name for path in ROOT.glob("*.py")) == ["__init__.py", "__main__.py"]
