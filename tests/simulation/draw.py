"""Traces drawn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation import decisions as d

if TYPE_CHECKING:
    from random import Random

# The conditional writes and the exchange are drawn more often: most bugs are there.
_TROUBLED = (*d.OPERATIONS, "dynamodb.update_item", "dynamodb.put_item", *2 * ["upstream.exchange"])
_STOPS = ("answer", "sleep", *(f"{side} {name}" for name in _TROUBLED for side in ("before", "after")))
_FAULTS = tuple(fault for fault in d.Fault if fault is not d.Fault.NONE)
_OUTAGES = ("dynamodb", "kms", "secretsmanager", "upstream", *d.OPERATIONS)
# Near the ends of tokens of 90 s and of an hour, of the lock, of trust in memory, back-offs and the hourly look.
_WAITS_S = (1.0, 5.0, 15.0, 16.0, 30.0, 61.0, 61.0, 75.0, 88.0, 100.0, 400.0, 900.0, 2_900.0, 3_500.0,
    86_400.0)  # fmt: skip
_LASTING_S = (3.0, 30.0, 100.0, 900.0)
_LIFETIMES = (90, 90, 3_600, 31_536_000, None)
_EXCHANGES_S = (0.1, 0.3, 3.0, 8.0, 9.9, 12.0)
CLOSE_S, ADRIFT_S = 0.74, 120.0
"""How far from true time a clock may be: within what the policy allows for, or far beyond."""


def draw_trace(random: Random, *, adrift: bool, longest: int = 40) -> d.Trace:
    """Return a trace.

    Args:
        random: where every choice comes from.
        adrift: whether clocks may be minutes apart and be set back and forth by hours. Otherwise no two clocks differ
            by more than 1.5 s, and all promises hold.
        longest: most decisions.
    """
    setup = d.Setup(
        skews_s=tuple(_draw_skew(random, adrift=adrift) for _ in range(random.randint(2, 4))),
        latency_s=random.choice([0.05, 0.3, 0.8]),
        expires_in=random.choice(_LIFETIMES),
        exchange_s=random.choice(_EXCHANGES_S[:-1]),
        seed=random.randrange(1_000),
    )
    return setup, [_draw(random, adrift=adrift) for _ in range(random.randint(5, longest))]


def _draw(random: Random, *, adrift: bool) -> d.Decision:  # noqa: PLR0911 - one for each kind
    instance = random.randrange(3)
    match random.choices(range(6), weights=(20, 25, 20, 20, 14, 6))[0]:
        case 0:
            return d.Run(instance, random.choice(_STOPS))
        case 1:
            return d.Run(instance, f"before {random.choice(_TROUBLED)}", random.choice(_FAULTS))
        case 2:
            return d.Wait(random.choice(_WAITS_S))
        case 3:
            return d.Ask(
                instance,
                connection=random.choices(range(3), weights=(4, 2, 2))[0],
                caller=random.randrange(3),
                time_left_s=random.choice([30.4, 30.4, 30.4, 14.0, 3.0]),
                min_ttl_s=random.choice([0.0, 0.0, 300.0, 900.0]),
                reporting=random.random() < 0.4,
            )
        case 4:
            return _draw_outside(random, instance)
        case _:
            if random.random() < 0.5:
                return d.SetClock(instance, _draw_skew(random, adrift=adrift))
            seconds, looks = random.choice([2.0, 6.0, 16.0, 70.0]), random.choice([0, 0, 1, 2, 3, 5])
            return d.Freeze(instance, seconds, looks)


def _draw_skew(random: Random, *, adrift: bool) -> float:
    limit_s = ADRIFT_S if adrift else CLOSE_S
    far_s = [7_200.0, -7_200.0] if adrift and random.random() < 0.2 else []
    return random.choice([0.0, limit_s, -limit_s, limit_s / 2, *far_s])


def _draw_outside(random: Random, instance: int) -> d.Decision:
    connection = random.choices(range(3), weights=(4, 2, 2))[0]
    choices: list[d.Decision] = [
        d.Crash(instance),
        d.Deploy(random.choice([60, 900, 3_600])),
        d.Outage(
            random.choice(_OUTAGES),
            random.choice(_LASTING_S),
            random.choice([d.Fault.UNREACHABLE, d.Fault.BUSY, d.Fault.DENIED]),
        ),
        d.Rotate(connection, accepted=random.random() < 0.7, old_stays=random.random() < 0.7),
        d.Tamper(random.choice(list(d.Damage)), connection),
        d.Delete(connection, rows=random.random() < 0.3),
        d.Snapshot(),
        d.Restore(rows=random.random() < 0.3),
        d.Say(random.choice([*_LIFETIMES, 2, 0, "900"])),
        d.Slow(random.choice(_EXCHANGES_S)),
        d.Turn(random.choice(list(d.Mode)), random.choice(_LASTING_S)),
    ]
    return random.choice(choices)
