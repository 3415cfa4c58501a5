"""Walks through scripted answers: limits, and cases that random lists would hardly ever produce."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from functions.campaigns.walk import MOST_STATUSES, OutOfTimeError, Page, PageTooLargeError, Walk, Walked


@dataclass
class Answers:
    """A `walk.PageSource` that answers in this order, whatever page is asked for; then it is out of time."""

    script: list[Page | Exception | None]
    asked: list[tuple[int, int, str | None]] = field(default_factory=list)

    def read_page(self, number: int, limit: int, cursor: str | None) -> Page | None:
        self.asked.append((number, limit, cursor))
        answer = self.script.pop(0) if self.script else OutOfTimeError("out_of_time: script")
        if isinstance(answer, Exception):
            raise answer
        return answer


def page(ids: str, total: int | None = None, *, is_last: bool | None = None, without_id: int = 0) -> Page:
    rows = len(ids) + without_id
    return Page(dict.fromkeys(ids, "planned"), rows, without_id, total, is_last=is_last)


def read(*script: Page | Exception | None, limit: int = 2) -> tuple[Walked, Answers]:
    answers = Answers(list(script))
    return Walk(answers, limit).read(), answers


def last(ids: str, total: int) -> Page:
    return page(ids, total, is_last=True)


SWAPPED = [page("a", 2), last("c", 2)]
"""The API counts a and b. Then b is hidden and c is made: there are as many rows, but other ones."""
FOUR = [page("ab", 4), last("c", 4)]
THREE = [page("ab", 3), last("c", 3), last("c", 3)]
MAY_LACK: dict[str, tuple[int, list[Page | Exception | None]]] = {
    "what came between count and rows": (2, [*SWAPPED, last("c", 3), *SWAPPED, last("c", 2)]),
    # The same happens to the second look: d comes between its count (a, b, c) and its rows.
    "a second look with news": (20, [*SWAPPED, last("d", 3), *[page("ac", 4), last("d", 4)] * 8]),
    # The second pass ends with as many as it brought; but a was gone by then, and d was there unseen.
    "a count of another moment": (20, [*FOUR, last("c", 4), *FOUR * 7, *THREE]),
    "one full answer": (2, [last("ab", 2), page("", 2), last("ab", 2), page("c", 3)]),
    "a last page that has grown": (2, [*THREE[:2], PageTooLargeError(), page("ab", 3), page("d", 3)]),
}


@pytest.mark.parametrize("name", MAY_LACK)
def test_a_list_that_may_lack_campaigns_is_not_complete(name: str) -> None:
    limit, script = MAY_LACK[name]

    assert not read(*script, limit=limit)[0].is_complete


def test_two_passes_with_the_same_campaigns_as_counted_are_complete() -> None:
    walked, answers = read(*THREE, *THREE)

    assert walked.is_complete
    assert (set(walked.statuses), walked.total, walked.passes, walked.pages) == (set("abc"), 3, 2, 6)
    assert answers.asked[:3] == [(1, 2, None), (2, 2, None), (2, 2, None)]


def test_one_answer_with_all_that_it_counts_is_complete() -> None:
    walked, answers = read(last("a", 1))

    assert (walked.is_complete, walked.passes, len(answers.asked)) == (True, 1, 1)


def test_a_status_is_the_one_that_was_seen_last() -> None:
    older, newer = Page({"a": "planned"}, 1, total=2), Page({"a": "completed"}, 1, total=2)

    walked, _ = read(older, newer)

    assert walked.statuses == {"a": "completed"}


def test_a_page_without_news_in_the_middle_does_not_end_a_pass() -> None:
    a_pass = [page("ab", 4), page("ba", 4), page("cd", 4), page("", 4)]

    walked, _ = read(*a_pass, *a_pass)

    assert walked.is_complete


def test_pages_that_repeat_for_ever_end_a_pass() -> None:
    walked, answers = read(*[page("ab") for _ in range(9)])

    assert (len(answers.asked), walked.is_complete) == (3, False)


def test_a_list_that_shows_fewer_than_it_counts_is_given_up_after_two_passes() -> None:
    sweep = [page("ab", 5), page("", 5)]

    walked, answers = read(*sweep * 16, *sweep * 16)

    assert walked.reason == "the API counts 5 campaigns and shows 2, twice the same ones"
    assert walked.passes == 2
    # Every other page limit has been tried; what may be between two pages has been looked for.
    assert {limit for _, limit, _ in answers.asked} == {2, 1}


def test_campaigns_without_an_id_are_never_complete() -> None:
    walked, _ = read(page("a", 3, without_id=2, is_last=True), limit=9)

    assert (walked.is_complete, walked.reason) == (False, "2 campaigns have no usable id")


def test_without_time_it_is_incomplete_and_says_how_far_it_came() -> None:
    walked, _ = read(page("ab", 4), OutOfTimeError("upstream_unavailable: HTTP 503"))

    assert not walked.is_complete
    assert walked.reason == "no time was left at page 2 of pass 1: upstream_unavailable: HTTP 503"
    assert set(walked.statuses) == set("ab")


@pytest.mark.parametrize(
    ("limit", "read_before", "next_page"),
    [(100, 0, (1, 50)), (100, 3, (7, 50)), (25, 1, (3, 12)), (25, 4, (9, 12)), (3, 2, (7, 1))],
)
def test_a_page_that_is_too_large_is_asked_for_in_halves_without_a_gap(
    limit: int, read_before: int, next_page: tuple[int, int]
) -> None:
    pages = [page(chr(97 + number), 999) for number in range(read_before)]

    _, answers = read(*pages, PageTooLargeError(), page("z", 999), limit=limit)

    number, halved, _ = answers.asked[read_before + 1]
    assert (number, halved) == next_page
    assert (number - 1) * halved <= read_before * limit
    assert answers.asked[read_before + 2][:2] == (number + 1, halved)


def test_a_single_campaign_that_is_too_large_is_an_error() -> None:
    with pytest.raises(PageTooLargeError, match="unexpected_answer: a single campaign is larger"):
        read(*[PageTooLargeError() for _ in range(9)], limit=100)


def test_statuses_are_counted_under_few_names_and_nothing_is_lost() -> None:
    statuses: dict[str, str | None] = {str(number): f"status {number % 90}" for number in range(500)}
    statuses["none"] = None

    counts = Walked(statuses, is_complete=True, reason="", total=501, passes=1, pages=1).by_status

    assert sum(counts.values()) == 501
    assert len(counts) == MOST_STATUSES + 1
    assert counts["(other)"] > 0
