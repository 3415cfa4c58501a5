"""AWS's answers over loopback HTTP, for commands that run as processes of their own."""

from __future__ import annotations

import json
import threading
from typing import Any
from urllib.parse import parse_qs

from local.loopback import LoopbackHandler, LoopbackServer

NAMESPACE = {
    "GetCallerIdentity": "https://sts.amazonaws.com/doc/2011-06-15/",
    "DescribeStacks": "http://cloudformation.amazonaws.com/doc/2010-05-15/",
}


class FakeAws(LoopbackServer):
    """`answers` maps an operation to its answer: an object, or the result in XML."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.asked: list[tuple[str, Any]] = []
        self.answers: dict[str, Any] = {
            "GetCallerIdentity": "<Arn>arn:aws:iam::123456789012:user/test</Arn>"
            "<UserId>AIDAEXAMPLE</UserId><Account>123456789012</Account>",
            "DescribeStacks": "<Stacks></Stacks>",
        }
        self.may_answer = threading.Event()
        self.may_answer.set()

    def close(self) -> None:
        self.may_answer.set()
        super().close()


class _Handler(LoopbackHandler):
    server: FakeAws

    def serve(self) -> None:
        content = self.read_body().decode()
        target = self.headers.get("X-Amz-Target")
        request = json.loads(content) if target else parse_qs(content)
        operation = target.rpartition(".")[2] if target else request["Action"][0]
        aws = self.server
        aws.asked.append((operation, request))
        aws.may_answer.wait(20)
        answer = aws.answers.get(operation)
        status = 200 if answer is not None else 400
        if target:
            body = json.dumps(answer if answer is not None else {"__type": "ResourceNotFoundException"})
        else:
            result = f"<{operation}Result>{answer}</{operation}Result>"
            body = f'<{operation}Response xmlns="{NAMESPACE[operation]}">{result}</{operation}Response>'
        self.send(status, {}, body.encode())
