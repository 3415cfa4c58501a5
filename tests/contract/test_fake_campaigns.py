"""The fake's campaigns: what is documented of the list, and everything that makes it hard to read."""

from __future__ import annotations

import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from local.digishare.admin import AdminServer
from local.digishare.campaigns import BULK, STATUSES, CampaignList
from local.digishare.contacts import CANARY_NAME, CANARY_PHONE_PREFIX
from local.digishare.model import Settings
from local.digishare.queries import SORT_COLUMNS, Invalid, Order
from tests.contract.conftest import PERSONAL, bearer, list_page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local.digishare.server import FakeDigishare

FIELDS = [
    "id", "company_id", "title", "description", "status", "message_type_id", "message_template_id",
    "contacts_and_data",
    "tags", "start_datetime", "end_datetime", "terminate_datetime", "created_at", "updated_at",
]  # fmt: skip
NOW_EPOCH_S = 1_790_000_000


# The JSON of an answer. Its shape is what these tests check.
Json = Any


def read_pages(http: httpx.Client, count: int = 3, **query: Json) -> list[Json]:
    return [list_page(http, page=number, limit=100, **query).json() for number in range(1, count + 1)]


def ids_of(*pages: Json) -> list[str]:
    return [row["id"] for page in pages for row in (page["data"] if isinstance(page, dict) else page)]


# --- what is documented -----------------------------------------------------------------------------------------


def test_250_campaigns_come_in_pages_newest_first(digishare: FakeDigishare, http: httpx.Client) -> None:
    pages = read_pages(http, 4)
    assert [len(page["data"]) for page in pages] == [100, 100, 50, 0]
    rows = [row for page in pages for row in page["data"]]
    assert all(list(row) == FIELDS and re.fullmatch("cmp_[0-9a-z]{15}", row["id"]) for row in rows)
    assert {row["id"]: row["status"] for row in rows} == digishare.campaign_statuses
    assert {row["status"] for row in rows} == set(STATUSES)
    seconds = [row["created_at"] for row in rows]
    assert seconds == sorted(seconds, reverse=True)
    assert set(Counter(seconds).values()) == {BULK, 250 % BULK}


def test_a_default_page_has_25_campaigns_and_links(digishare: FakeDigishare, http: httpx.Client) -> None:
    first = list_page(http).json()
    numbers = {"total": 250, "count": 25, "per_page": 25, "current_page": 1, "total_pages": 10}
    assert first["meta"] == {**numbers, "links": {"next": "/v1/campaigns?page=2", "previous": None}}
    digishare.replace_campaigns(1)
    assert list_page(http).json()["meta"]["links"] is None


@pytest.mark.parametrize(
    "query",
    [
        *({"limit": limit} for limit in (0, 101)),
        *({"page": page} for page in (0, -1, "x", "1e3", 10**10)),
        {"sort_by": "id"},
        {"sort_direction": "up"},
    ],
    ids=str,
)
def test_undocumented_queries_fail_validation(http: httpx.Client, query: dict[str, object]) -> None:
    answer = list_page(http, PERSONAL, **query)
    assert (answer.status_code, list(answer.json()["errors"])) == (422, list(query))


def test_nothing_but_reading_is_allowed(http: httpx.Client) -> None:
    assert http.post("/v1/campaigns", json={}, headers=bearer(PERSONAL)).status_code == 405


# --- order ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("column", SORT_COLUMNS)
def test_campaigns_are_sorted_as_asked(http: httpx.Client, column: str, *, descending: bool) -> None:
    query: Json = {"sort_by": column, "sort_direction": "desc" if descending else "asc"}
    values = [row[column] for page in read_pages(http, **query) for row in page["data"]]
    assert values == sorted(values, reverse=descending)
    assert len(set(values)) > 1


@pytest.mark.parametrize("tie_order", ["stable", "unstable", "sort_ignored"])
def test_ties_are_drawn_unless_stable(digishare: FakeDigishare, http: httpx.Client, tie_order: str) -> None:
    digishare.configure(tie_order=tie_order)
    rows, again = (list_page(http, limit=100, page=2).json()["data"] for _ in range(2))
    seconds = [row["created_at"] for row in rows]
    assert (rows == again) is (tie_order == "stable")
    assert (seconds == sorted(seconds, reverse=True)) is (tie_order != "sort_ignored")


@pytest.mark.parametrize("page", [5, 6])
def test_a_draw_never_mixes_rows_that_do_not_tie(page: int) -> None:
    """Pages 5 and 6 are the halves of the third group of 40: each draws from these 40, and from no others."""
    campaigns = new_list(200, tie_order="unstable")
    groups = [
        {row["id"] for row in group}
        for _, group in groupby(answer(campaigns, limit=100)["data"], key=lambda row: row["created_at"])
    ]
    seen = {name for _ in range(300) for name in ids_of(answer(campaigns, limit=20, page=page))}
    assert len(seen) == 40
    assert not seen & (groups[0] | groups[1])


# --- contacts ---------------------------------------------------------------------------------------------------


def test_contacts_have_a_real_size_and_are_recognised(digishare: FakeDigishare, http: httpx.Client) -> None:
    assert list_page(http).json()["data"][0]["contacts_and_data"] == []
    digishare.configure(contacts_per_campaign=1000)
    first, again = list_page(http, limit=100), list_page(http, limit=1)
    assert 10_000_000 < len(first.content) < 12_000_000
    contacts = first.json()["data"][0]["contacts_and_data"]
    assert again.json()["data"][0]["contacts_and_data"] == contacts
    assert len({contact["mobile"] for contact in contacts}) == 1000
    for contact in contacts:
        assert re.fullmatch(re.escape(CANARY_PHONE_PREFIX) + r"\d{4}", contact["mobile"])
        assert CANARY_NAME in contact["name"]
        assert contact["data"]


# --- changes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def admin(digishare: FakeDigishare) -> Iterator[httpx.Client]:
    with AdminServer(digishare) as server, httpx.Client(base_url=server.origin, trust_env=False) as client:
        yield client


def test_the_list_is_changed_over_the_admin_api(admin: httpx.Client, http: httpx.Client) -> None:
    before = admin.get("/campaigns").json()["statuses"]
    changed, deleted, *_ = before
    change = {"create": 2, "change": {changed: "on_the_moon"}, "delete": [deleted]}
    state = admin.post("/campaigns", json=change).raise_for_status().json()
    listed = {row["id"]: row["status"] for page in read_pages(http) for row in page["data"]}
    assert listed == state["statuses"] == admin.get("/campaigns").json()["statuses"]
    assert listed.keys() - before.keys() == set(state["created"])
    assert ids_of(list_page(http, limit=2).json()) == sorted(state["created"], reverse=True)
    assert before.keys() - listed.keys() == {deleted}
    assert {name for name, status in before.items() if listed.get(name, status) != status} == {changed}
    assert listed[changed] == "on_the_moon"


def test_a_new_list_has_no_campaign_of_the_old_one(admin: httpx.Client, http: httpx.Client) -> None:
    before = admin.get("/campaigns").json()["statuses"]
    after = admin.put("/campaigns", json={"count": 61}).raise_for_status().json()["statuses"]
    assert len(after) == 61
    assert not before.keys() & after.keys()
    assert set(ids_of(list_page(http, limit=100).json())) == after.keys()


@pytest.mark.parametrize(
    "broken",
    [
        {"delete": ["cmp_unknown"]}, {"change": {"cmp_unknown": "paused"}}, {"destroy": 1}, {"count": 1},
        {"create": "many", "change": {}, "delete": []},
    ],
    ids=str,
)  # fmt: skip
def test_a_change_that_cannot_be_made_changes_nothing(admin: httpx.Client, broken: Json) -> None:
    before = admin.get("/campaigns").json()
    first, second, *_ = before["statuses"]
    valid = {"create": 1, "change": {first: "on_the_moon"}, "delete": [second]}
    assert admin.post("/campaigns", json=valid | broken).status_code == 400
    assert admin.get("/campaigns").json() == before


def test_the_list_changes_while_somebody_reads(admin: httpx.Client, http: httpx.Client) -> None:
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: [page for _ in range(30) for page in read_pages(http)])
        for _ in range(30):
            created = admin.post("/campaigns", json={"create": 1}).json()["created"]
            assert admin.post("/campaigns", json={"delete": created}).status_code == 200
        assert {page["meta"]["total"] for page in reading.result()} <= {250, 251}
    assert set(ids_of(*read_pages(http))) == admin.get("/campaigns").json()["statuses"].keys()


def test_a_change_happens_before_every_second_call(digishare: FakeDigishare, http: httpx.Client) -> None:
    digishare.configure(change_every=2)
    states = [digishare.campaign_statuses]
    for _ in range(8):
        list_page(http)
        states.append(digishare.campaign_statuses)
    effects = []
    for old, new in pairwise(states):
        changed = sum(new.get(name, status) != status for name, status in old.items())
        effects.append((len(new.keys() - old.keys()), changed, len(old.keys() - new.keys())))
    nothing, create, change, delete = (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)
    assert effects == [nothing, create, nothing, change, nothing, delete, nothing, create]


# --- the list itself, as a simulation uses it -------------------------------------------------------------------


def new_list(count: int, seed: int = 1, **settings: Json) -> CampaignList:
    campaigns = CampaignList(Settings(**settings), random.Random(seed), lambda: NOW_EPOCH_S)  # noqa: S311
    campaigns.replace(count)
    return campaigns


def answer(campaigns: CampaignList, **query: object) -> Json:
    return campaigns.answer_list({name: str(value) for name, value in query.items()})


def test_a_list_is_the_same_for_the_same_seed() -> None:
    settings: Json = {"tie_order": "unstable", "change_every": 1, "contacts_per_campaign": 3}
    lists = [new_list(60, seed, **settings) for seed in (1, 1, 2)]
    first, same, other = ([answer(each, page=page) for page in (1, 2, 3)] for each in lists)
    assert first == same
    assert not set(ids_of(*first)) & set(ids_of(*other))


def test_the_list_can_change_between_count_and_select() -> None:
    campaigns = new_list(60)
    campaigns.between_count_and_select = lambda: campaigns.create(1)
    created = answer(campaigns, limit=100)["meta"]
    campaigns.between_count_and_select = lambda: campaigns.delete(next(iter(campaigns.statuses())))
    deleted = answer(campaigns, limit=100)["meta"]
    assert [(meta["total"], meta["count"]) for meta in (created, deleted)] == [(60, 61), (61, 60)]


def test_a_late_campaign_can_appear_behind_what_was_read() -> None:
    campaigns = new_list(60)
    [late] = campaigns.create(1, created_at_epoch_s=NOW_EPOCH_S - 100 * 86_400)
    assert ids_of(answer(campaigns, limit=60, page=2)) == [late]
    [new] = campaigns.create(1)
    assert ids_of(answer(campaigns, limit=1)) == [new]


def test_an_answer_stays_as_it_was_given() -> None:
    campaigns = new_list(1)
    [row] = answer(campaigns)["data"]
    campaigns.change(row["id"], "failed" if row["status"] != "failed" else "paused")
    [changed] = answer(campaigns)["data"]
    assert changed["status"] != row["status"]
    assert changed["updated_at"] > row["updated_at"] == row["created_at"]


def test_a_cursor_loses_ties_where_their_order_is_not_stable() -> None:
    campaigns = new_list(60, campaign_shape="cursor", tie_order="unstable")
    first = answer(campaigns)  # 20 of one second, and 5 of the 40 of the second before
    second = answer(campaigns, cursor=first["next_cursor"])
    assert (len(first["data"]), second["data"], second["next_cursor"]) == (25, [], None)


def test_a_cursor_ends_with_the_last_full_page() -> None:
    assert answer(new_list(25, campaign_shape="cursor"))["next_cursor"] is None


def test_10_000_campaigns_are_not_sorted_for_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    keys_read: Counter[str] = Counter()
    key = Order.key

    def count_and_read(order: Json, campaign: Json) -> tuple[str, ...]:
        keys_read[campaign["id"]] += 1
        return key(order, campaign)

    monkeypatch.setattr(Order, "key", count_and_read)
    campaigns = new_list(10_000)
    pages = [answer(campaigns, limit=100, page=page) for page in range(1, 101)]
    assert len(set(ids_of(*pages))) == 10_000
    assert set(keys_read.values()) == {1}


def test_a_refusal_names_status_and_body() -> None:
    with pytest.raises(Invalid) as refusal:
        answer(new_list(60, behind_last_page="404"), page=4)
    assert (refusal.value.status, refusal.value.body) == (404, {"message": "Not Found"})
