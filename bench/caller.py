"""The caller's side: a token from the client's memory, the adapter for requests, and threads that share a client."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import botocore.session
import requests

from bench.samples import Sample
from local.loopback import LoopbackHandler, LoopbackServer
from token_broker.client import BrokerClient
from token_broker.requests_adapter import BrokerAdapter

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS: Final = 32
LEASES: Final = 5
LEASE_S: Final = 900
_TOKEN: Final = "x" * 700


@dataclass(frozen=True, slots=True)
class CallerCosts:
    """Processor seconds for one call each, and calls to the broker for each lease of many threads.

    Attributes:
        token_s: `BrokerClient.token()` from memory.
        plain_request_s, adapter_request_s: a GET on loopback with a static header, and through `BrokerAdapter`.
        plain_prepare_s, adapter_prepare_s: the part of it that prepares the request, without the network.
    """

    token_s: Sample
    plain_request_s: Sample
    adapter_request_s: Sample
    plain_prepare_s: Sample
    adapter_prepare_s: Sample
    broker_calls_per_lease: list[int]


class _Server(LoopbackServer):
    """Answers POST with a lease and GET with an empty object; counts the leases."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.leases = 0

    def new_lease(self) -> dict[str, object]:
        self.leases += 1
        time.sleep(0.05)  # long enough that all threads ask meanwhile
        token = f"{_TOKEN}{self.leases}"
        lease = {"access_token": token, "token_type": "Bearer", "expires_in": LEASE_S}
        return lease | {"token_id": f"{self.leases:016x}", "connection": "digishare"}


class _Handler(LoopbackHandler):
    server: _Server

    def serve(self) -> None:
        self.read_body()
        self.send_json(200, self.server.new_lease() if self.command == "POST" else {})


class _NoNetwork(requests.adapters.HTTPAdapter):
    """Answers in place of the network."""

    def send(self, request: requests.PreparedRequest, *_args: Any, **_settings: Any) -> requests.Response:
        answer = requests.Response()
        answer.request, answer.status_code = request, 200
        return answer


class _BrokerAdapterAlone(BrokerAdapter, _NoNetwork):
    """`BrokerAdapter` without the network."""


def measure_caller(*, blocks: int) -> CallerCosts:
    """Measure everything, in turns; takes some seconds."""
    with _Server() as server, requests.Session() as plain_session, requests.Session() as session:
        session.trust_env = False
        client = _client(server.origin, time.time)
        session.mount(server.origin, BrokerAdapter(client, hosts=("127.0.0.1",)))
        plain_session.trust_env = False
        header = {"Authorization": f"Bearer {client.token().access_token}"}
        plain, bare = (
            requests.Request("GET", server.origin, headers=header),
            requests.Request("GET", server.origin),
        )
        no_network, adapter = _NoNetwork(), _BrokerAdapterAlone(client, hosts=("127.0.0.1",))
        work: dict[str, tuple[Callable[[], object], int]] = {
            "token": (client.token, 4_000),
            "plain_prepare": (lambda: no_network.send(session.prepare_request(plain)), 200),
            "adapter_prepare": (lambda: adapter.send(session.prepare_request(bare)), 200),
            "plain_request": (lambda: plain_session.get(server.origin, headers=header, timeout=5), 20),
            "adapter_request": (lambda: session.get(server.origin, timeout=5), 20),
        }
        taken: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(blocks):
            for name, (call, times) in work.items():
                taken[name].append(_cpu_per_call(call, times))
        samples = {f"{name}_s": Sample.of(values) for name, values in taken.items()}
        return CallerCosts(**samples, broker_calls_per_lease=_calls_of_threads(server))


def _calls_of_threads(server: _Server) -> list[int]:
    """Return the calls to the broker for each of some leases, for which many threads ask at once."""
    now_s = 1_800_000_000.0
    client = _client(server.origin, lambda: now_s)
    calls = []
    barrier = threading.Barrier(THREADS)

    def together(_number: int) -> None:
        barrier.wait()
        client.token()

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(LEASES):
            before = server.leases
            # As many calls as the pool has threads: each thread makes one, and waits for the others first.
            list(pool.map(together, range(THREADS)))
            calls.append(server.leases - before)
            now_s += LEASE_S
    return calls


def _client(url: str, clock: Callable[[], float]) -> BrokerClient:
    session = botocore.session.Session()
    session.set_credentials("AKIAEXAMPLE", "bench")
    return BrokerClient(url, session=session, region="eu-west-3", clock=clock)


def _cpu_per_call(call: Callable[[], object], times: int) -> float:
    started_s = time.thread_time()  # of this thread only: the server's threads do not count
    for _ in range(times):
        call()
    return (time.thread_time() - started_s) / times
