"""Numbers and times as users say them."""

from __future__ import annotations

import random

SMALL = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def number(rng: random.Random) -> str:
    return (
        rng.choice(SMALL)
        if rng.random() < 0.4
        else str(rng.choice((rng.randint(1, 12), rng.randint(1, 100), rng.randint(100, 9999))))
    )


def few(rng: random.Random) -> str:
    return rng.choice(SMALL) if rng.random() < 0.45 else str(rng.randint(0, 12))


def clock(rng: random.Random) -> str:
    hour = rng.randint(1, 12)
    return rng.choice(
        (
            f"{hour} {rng.choice(('am', 'pm', 'AM', 'PM'))}",
            f"{hour}pm",
            f"{hour}:{rng.randint(0, 59):02d}",
            f"{hour} o'clock",
            "noon",
            f"{rng.choice(SMALL)} pm",
            f"{hour}:{rng.choice((0, 15, 30, 45)):02d} {rng.choice(('am', 'pm'))}",
            "midnight",
            f"half past {rng.choice(SMALL)}",
        )
    )


def date(rng: random.Random) -> str:
    month, day = rng.choice(MONTHS), rng.randint(1, 28)
    return rng.choice(
        (
            f"{month} {day}",
            f"{month} {day}th",
            f"the {day}th of {month}",
            f"{day}/{rng.randint(1, 12)}/{rng.randint(2001, 2040)}",
            rng.choice(DAYS),
            f"{month} {day}, {rng.randint(2001, 2040)}",
            f"next {rng.choice(DAYS)}",
            "tomorrow",
            "today",
            f"{rng.randint(2001, 2040)}-{rng.randint(1, 12):02d}-{day:02d}",
        )
    )


def when(rng: random.Random) -> str:
    """Any time expression: a date, a clock time, a relative one."""
    pick = rng.random()
    if pick < 0.25:
        return date(rng)
    if pick < 0.4:
        return clock(rng)
    few_ = number(rng)
    unit = rng.choice(["seconds", "minutes", "hours", "days", "weeks", "months", "years"])
    return rng.choice(
        (
            f"{few_} {unit} from now",
            f"in {few_} {unit}",
            f"{few_} {unit} from today",
            "now",
            "tonight",
            "this evening",
            "this weekend",
            "right now",
            "later today",
            f"next {rng.choice(('week', 'month', 'year', 'fall', 'winter', 'summer', 'spring'))}",
            f"tomorrow {rng.choice(('morning', 'night', 'at noon'))}",
            f"{rng.choice(DAYS)} {rng.choice(('morning', 'night', 'afternoon'))}",
            f"{date(rng)} at {clock(rng)}",
            "this afternoon",
            "breakfast",
            "lunch",
            "dinner",
            f"a {rng.choice(('week', 'month', 'year', 'minute'))} from now",
            f"the week of {rng.choice(MONTHS)} {rng.randint(1, 28)}",
            f"one {unit[:-1]} from now",
        )
    )


def year(rng: random.Random) -> str:
    return rng.choice(
        (
            str(rng.randint(1930, 2024)),
            f"{rng.randint(192, 202)}0s",
            f"{rng.choice('6789')}0s",
            rng.choice(["twenties", "thirties", "fifties", "sixties", "seventies", "eighties", "nineties"]),
        )
    )
