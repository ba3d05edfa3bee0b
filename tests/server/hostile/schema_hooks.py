"""What schemathesis is told beside its own checks; it imports this file by SCHEMATHESIS_HOOKS."""

from __future__ import annotations

import json
import os
from typing import Any

import requests
import schemathesis

KEY = os.environ.get("HOSTILE_KEY", "")
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "test-model", "prompt": "a"}}


@schemathesis.check
def error_is_worded(ctx: Any, response: Any, case: Any) -> None:
    """Every refusal says why, in OpenAI's form or in Anthropic's."""
    if response.status_code < 400 or response.request.method == "HEAD":
        return
    error = json.loads(response.content)["error"]
    names = {"type", "message"} if case.path.startswith("/v1/messages") else {"message", "type", "param", "code"}
    assert set(error) >= names, error
    assert error["message"], error
    assert response.headers["x-request-id"], response.headers


@schemathesis.hook
def before_call(ctx: Any, case: Any, kwargs: Any) -> None:
    """What no generator guesses, so that more than the first check of a route is reached."""
    if not isinstance(case.body, dict):
        return
    if isinstance(case.body.get("model"), str):
        case.body["model"] = "test-model"
    if case.path == "/v1/files" and "file" in case.body and sum(case.id.encode()) % 2:
        case.body |= {"file": json.dumps(LINE).encode(), "purpose": "batch"}


@schemathesis.hook
def after_call(ctx: Any, case: Any, response: Any) -> None:
    """A case may empty the server: then it is opened again."""
    if case.path == "/admin/drain" and case.method == "POST" and response.status_code == 200:
        requests.delete(response.request.url, headers={"authorization": KEY}, timeout=10)
