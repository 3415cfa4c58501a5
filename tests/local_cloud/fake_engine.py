"""A container engine that has every image and starts nothing: it notes what SAM asks it to create, and refuses."""

from __future__ import annotations

import json
from typing import Any

from local.loopback import HOST, LoopbackHandler, LoopbackServer


class FakeEngine(LoopbackServer):
    """Speaks what SAM needs of Docker's API.

    Attributes:
        host: for DOCKER_HOST.
        created: the bodies of `POST /containers/create` so far.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.host = f"tcp://{HOST}:{self.port}"
        self.created: list[dict[str, Any]] = []


class _Handler(LoopbackHandler):
    server: FakeEngine

    def serve(self) -> None:
        body = self.read_body()
        if "/containers/create" in self.path:
            self.server.created.append(json.loads(body))
            self.send_json(500, {"message": "nothing is started here"})
        else:
            # One answer to every request: SAM reads the version from it, and that each image exists.
            self.send_json(200, {"Id": "sha256:0", "ApiVersion": "1.41", "MinAPIVersion": "1.12"})
