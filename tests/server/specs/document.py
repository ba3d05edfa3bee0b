"""A published OpenAPI document, as something to hold bodies against."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError, relevance

Schema = Any


class Document:
    """`path`: of JSON or YAML. `nulls`: places in components/schemas that may also be null, whatever it says there."""

    def __init__(self, path: str | Path, nulls: Collection[str] = ()) -> None:
        document = _nullable(_read(Path(path)))
        self.paths: dict[str, Any] = document["paths"]
        self.schemas: dict[str, Schema] = document["components"]["schemas"]
        for place in nulls:
            *way, last = place.split("/")
            node: Any = self.schemas
            for step in way:
                node = node[int(step)] if isinstance(node, list) else node[step]
            node[last] = {"anyOf": [node[last], {"type": "null"}]}
        self._validator = validators.extend(
            Draft202012Validator, {keyword: partial(self._union, keyword) for keyword in ("oneOf", "anyOf")}
        )

    def faults(self, schema: Schema, body: Any) -> list[str]:
        """What is wrong with `body`: of a union that nothing fits, with the member that comes nearest."""
        root = {"components": {"schemas": self.schemas}, "allOf": [schema]}
        return [_told(error) for error in self._validator(root).iter_errors(body)]

    def _union(
        self, keyword: str, validator: Any, members: list[Schema], body: Any, schema: Schema
    ) -> Iterator[ValidationError]:
        """Where a discriminator says which members are meant, only those are looked at: faster, and faults are told."""
        tag = schema.get("discriminator", {}).get("propertyName")
        if tag is not None and isinstance(body, dict):
            members = [member for member in members if body.get(tag) in self._tags(member, tag)]
            if not members:
                yield ValidationError(f"{tag} {body.get(tag)!r} is none of those that may stand here")
                return
            if len(members) == 1:
                yield from validator.descend(body, members[0])
                return
        yield from Draft202012Validator.VALIDATORS[keyword](validator, members, body, schema)

    def _tags(self, member: Schema, tag: str) -> set[Any]:
        """The values that `member` allows its discriminator."""
        if "$ref" in member:
            return self._tags(self.schemas[member["$ref"].rpartition("/")[2]], tag)
        found = member.get("properties", {}).get(tag, {})
        values = set(found.get("enum", [found["const"]] if "const" in found else ()))
        for keyword in ("allOf", "oneOf", "anyOf"):
            values.update(*(self._tags(each, tag) for each in member.get(keyword, ())))
        return values


def _read(path: Path) -> Any:
    with path.open(encoding="utf-8") as file:
        if path.suffix == ".json":
            return json.load(file)
        return yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _nullable(node: Any) -> Any:
    """`nullable: true` is of OpenAPI 3.0; documents that say they are of 3.1 have it all the same."""
    if isinstance(node, list):
        return [_nullable(each) for each in node]
    if not isinstance(node, dict):
        return node
    plain = {name: _nullable(value) for name, value in node.items() if name != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") is True else plain


def _told(error: ValidationError) -> str:
    while error.context:
        error = min(error.context, key=lambda each: (-len(each.absolute_path), relevance(each)))
    return f"{error.json_path}: {error.message:.160}"
