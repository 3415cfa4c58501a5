"""The people whom a campaign goes to: invented personal data, which tests can easily find where it must not be."""

from __future__ import annotations

from functools import cache
from zlib import crc32

CANARY_PHONE_PREFIX = "+21266600"
CANARY_NAME = "Elkanari"
MOST_CONTACTS = 10_000  # as many as there are numbers behind the prefix

_FIRST_NAMES = ("Amina", "Youssef", "Salma", "Hamza", "Imane")
_CITIES = ("Rabat", "Fes", "Agadir", "Oujda")


def contacts_of(campaign_id: str, count: int) -> list[dict[str, object]]:
    """Return `contacts_and_data` of a campaign: the same at every call, about 110 bytes of JSON a person.

    All campaigns share one set of people, as those of a company do, so that a page of 100,000 contacts is made of
    references.
    """
    people = _people()
    first = crc32(campaign_id.encode()) % (len(people) - count + 1)
    return people[first : first + count]


@cache
def _people() -> list[dict[str, object]]:
    return [
        {
            "mobile": f"{CANARY_PHONE_PREFIX}{number:04d}",
            "name": f"{_FIRST_NAMES[number % len(_FIRST_NAMES)]} {CANARY_NAME}",
            "data": {"city": _CITIES[number % len(_CITIES)], "order": f"R-2026-{number:06d}"},
        }
        for number in range(MOST_CONTACTS)
    ]
