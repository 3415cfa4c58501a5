"""Digishare's campaigns: 250 of them, the page shapes that a reader must cope with, and what creating one needs."""

from __future__ import annotations

import json
import math
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Campaign = dict[str, object]

PageShape = Literal[
    "documented",  # data + meta.pagination
    "bare_array",  # the page's campaigns and nothing else; [] behind the last page
    "bare_array_unpaged",  # all campaigns, whatever page was asked for
    "laravel",  # data + links + meta.current_page, meta.last_page
    "repeating_page",  # every page holds the first page's campaigns, and always promises one more
    "overlapping_pages",  # a page begins with the last campaign of the page before
    "growing_total",  # the first page says 150, the others 250
    "shrinking_total",  # the first page says 950, the others 250
    "unknown_status",  # every tenth campaign has a status that nobody has heard of
    "missing_fields",  # every tenth campaign lacks status, channel and cost
]
PAGE_SHAPES: tuple[str, ...] = get_args(PageShape)

MAX_LIMIT = 100
DEFAULT_LIMIT = 15
MAX_RECIPIENTS = 1000
CHANNELS = ("sms", "whatsapp", "telegram", "mail")
SENDER_LABELS = ("label-sms", "label-whatsapp")
_STATUSES = ("planned", "planned", "running", "done", "cancelled")  # only `planned` is documented
_PRICE = 0.06


class Invalid(Exception):
    """The request is refused with this status and JSON body."""

    def __init__(self, status: int, body: Mapping[str, object]) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def sample_campaigns(count: int = 250) -> list[Campaign]:
    """Return `count` campaigns of mixed status and channel: the same ones at every call."""
    start = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
    return [
        {
            "id": f"cmp{number:04d}x4dgk7090",
            "title": f"Campaign {number}",
            "channel": CHANNELS[number % 3 if number % 10 else 3],
            "status": _STATUSES[number % len(_STATUSES)],
            "recipients_count": number % 40 + 1,
            "cost": round((number % 40 + 1) * _PRICE, 2),
            "created_at": f"{start + timedelta(hours=number):%Y-%m-%dT%H:%M:%SZ}",
        }
        for number in range(1, count + 1)
    ]


def render_page(
    campaigns: Sequence[Campaign], query: Mapping[str, str], shape: PageShape, base_url: str
) -> object:
    """Return the JSON value of one page. Raises Invalid (422) for a page or limit outside its range."""
    page = _whole_number(query, "page", default=1, highest=None)
    limit = _whole_number(query, "limit", default=DEFAULT_LIMIT, highest=MAX_LIMIT)
    wanted = query.get("search", "").lower()
    found = [_spoil(campaign, shape) for campaign in campaigns if wanted in str(campaign["title"]).lower()]
    start = (page - 1) * limit
    if shape == "overlapping_pages" and page > 1:
        start -= 1
    rows = found[start : page * limit]
    if shape == "repeating_page":
        rows = found[:limit]
    if shape == "bare_array":
        return rows
    if shape == "bare_array_unpaged":
        return found
    total = {("growing_total", True): 150, ("shrinking_total", True): 950}.get((shape, page == 1), len(found))
    pages = page + 1 if shape == "repeating_page" else max(1, math.ceil(total / limit))
    if shape == "laravel":
        return _laravel_page(rows, page=page, pages=pages, limit=limit, total=total, url=base_url)
    pagination = {"total": total, "count": len(rows), "per_page": limit, "current_page": page}
    return {"data": rows, "meta": {"pagination": {**pagination, "total_pages": pages}}}


def _laravel_page(
    rows: Sequence[Campaign], *, page: int, pages: int, limit: int, total: int, url: str
) -> dict[str, object]:
    def link(number: int) -> str | None:
        return f"{url}?page={number}" if 1 <= number <= pages else None

    first = (page - 1) * limit + 1 if rows else None
    meta = {"current_page": page, "last_page": pages, "per_page": limit, "total": total, "path": url}
    return {
        "data": rows,
        "links": {"first": link(1), "last": link(pages), "prev": link(page - 1), "next": link(page + 1)},
        "meta": {**meta, "from": first, "to": first and first + len(rows) - 1},
    }


def _spoil(campaign: Campaign, shape: PageShape) -> Campaign:
    is_tenth = str(campaign["id"])[3:7].endswith("0")
    if is_tenth and shape == "unknown_status":
        return {**campaign, "status": "quarantined_by_carrier"}
    if is_tenth and shape == "missing_fields":
        return {key: value for key, value in campaign.items() if key not in {"status", "channel", "cost"}}
    return campaign


def _whole_number(query: Mapping[str, str], name: str, *, default: int, highest: int | None) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= 1):  # noqa: PLR2004 - fits an int32
        raise _invalid(name, f"The {name} must be a whole number of at least 1.")
    if highest is not None and int(text) > highest:
        raise _invalid(name, f"The {name} must not be greater than {highest}.")
    return int(text)


def create_campaign(fields: Mapping[str, object], *, balance: float, now_epoch_s: float) -> Campaign:
    """Return the new campaign. Raises Invalid: 422 for fields, 400 for the sender label, 402 for the balance."""
    channel = fields.get("channel")
    if channel not in CHANNELS:
        raise _invalid("channel", "The selected channel is invalid.")
    required = ["title", "sender_label_id", "recipients"]
    required += ["message_type_id"] if channel == "sms" else ["message_template_id"]
    for name in required:
        if not fields.get(name):
            raise _invalid(name, f"The {name.replace('_', ' ')} field is required.")
    if channel == "sms" and not (fields.get("message_template") or fields.get("message_template_id")):
        raise _invalid("message_template", "The message template field is required.")
    recipients = _recipients(fields["recipients"], "wa_id" if channel == "whatsapp" else "mobile")
    if fields["sender_label_id"] not in SENDER_LABELS:
        raise Invalid(400, {"message": "sender_label_id invalid"})
    cost = round(recipients * _PRICE, 2)
    if cost > balance:
        errors = {"balance": ["not enough"]}
        raise Invalid(402, {"message": "Itinarea balance not enough", "status_code": 402, "errors": errors})
    return {
        "id": secrets.token_hex(9),
        "title": fields["title"],
        "channel": channel,
        "status": "planned",
        "recipients_count": recipients,
        "cost": cost,
        "created_at": f"{datetime.fromtimestamp(now_epoch_s, UTC):%Y-%m-%dT%H:%M:%SZ}",
    }


def _recipients(value: object, address: str) -> int:
    if not isinstance(value, list) or len(value) > MAX_RECIPIENTS:
        raise _invalid("recipients", f"The recipients must be a list of at most {MAX_RECIPIENTS}.")
    for index, recipient in enumerate(value):
        digits = recipient.get(address) if isinstance(recipient, dict) else None
        if not (isinstance(digits, str) and digits.removeprefix("+").isdigit()):
            raise _invalid(f"recipients.{index}.{address}", f"The {address} format is invalid.")
    return len(value)


def _invalid(field: str, message: str) -> Invalid:
    return Invalid(422, {"message": message, "errors": {field: [message]}})


def json_object(body: bytes) -> dict[str, object]:
    """Return the body's fields; an unreadable body has none, as in Digishare's server stack."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
