"""SnapStart: what a snapshot of the loaded broker would hold, and what instances restored from one would share."""

from __future__ import annotations

import json
import os

from tests.packaging.test_artefacts import run

SHOW = """
import functools, gc, json, os, random, socket, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event == "socket.connect" else None)
class Watched(type(os.environ)):
    reads = []
    def __getitem__(self, name):
        Watched.reads.append(name)
        return super().__getitem__(name)
os.environ.__class__ = Watched
import functions.broker.handler as handler
print(json.dumps({
    "assembled": handler._broker.cache_info().currsize,
    "connections": opened,
    "settings read": [name for name in Watched.reads if name.startswith(("AWS_", "TOKEN_", "SECRET_"))],
    "collecting": gc.isenabled(),
}))
"""

RESTORE = """
import os, json
import functions.broker.handler as handler
from functions.broker.assembly import assemble
children = []
for _ in range(2):
    read, write = os.pipe()
    if os.fork() == 0:
        environment = {"TOKEN_TABLE": "t", "TOKEN_KEY_ARN": "arn:aws:kms:r:000000000000:key/k",
                       "SECRET_PREFIX": "p", "UPSTREAM_HOSTS": "h", "DEFAULT_TOKEN_URL": "https://h/", "LEASE_SECONDS": "900", "CAMPAIGNS_ROLE": "campaigns-role"}
        ports = assemble(environment, handler._audit()).issuer.ports
        os.write(write, json.dumps([ports.new_id(), ports.randomness()]).encode())
        os._exit(0)
    os.wait()
    children.append(json.loads(os.read(read, 1000)))
print(json.dumps(children))
"""


def test_a_snapshot_holds_code_and_nothing_else() -> None:
    assert json.loads(run("BrokerFunction", SHOW)) == {
        "assembled": 0,
        "connections": [],
        "settings read": [],
        "collecting": True,
    }


def test_instances_of_one_snapshot_share_neither_ids_nor_chance() -> None:
    code = f"import os; os.environ['AWS_DEFAULT_REGION'] = 'eu-west-3'\n{RESTORE}"

    (first_id, first_chance), (second_id, second_chance) = json.loads(run("BrokerFunction", code))

    assert first_id != second_id
    assert first_chance != second_chance
    assert os.environ.get("AWS_DEFAULT_REGION") is None
