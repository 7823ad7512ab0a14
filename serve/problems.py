"""Errors as RFC 9457 problem documents."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """A request that cannot be answered, and why."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Say what is wrong.

        Args:
            status: of the HTTP answer.
            detail: a sentence: what was given, what was expected, the remedy.
            errors: one entry per place of the request, where there are several.
            headers: of the answer.
        """
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.errors, self.headers = list(errors), dict(headers or {})

    def document(self, instance: str) -> bytes:
        """Return the JSON document; ASCII only, as a client's lone surrogates are no UTF-8.

        Args:
            instance: path of the request.
        """
        content: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
        }
        if self.errors:
            content["errors"] = self.errors
        return json.dumps(content).encode("ascii")
