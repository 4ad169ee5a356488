# ruff: noqa: E501
"""Values by type: what a user could say for a city, a title, a time. Every call draws a fresh one."""

from __future__ import annotations

import random
from collections.abc import Callable

from pipelines.seed.times import clock, date, few, number, when, year
from pipelines.seed.words import CITIES, COUNTRIES, FAMILY, GIVEN, STATES, pseudo, word

Maker = Callable[[random.Random], str]

# fmt: off
CUISINES = (
    "italian french chinese japanese indian thai greek turkish spanish mexican korean vietnamese german russian polish american british "
    "african persian lebanese moroccan ethiopian brazilian peruvian cuban caribbean swedish danish portuguese hungarian seafood vegan "
    "vegetarian tapas sushi ramen barbecue fusion halal kosher creole cajun|middle eastern|north african|south american|fast food"
)
DISHES = (
    "pizza pasta soup salad burger steak curry tacos noodles dumplings risotto paella falafel hummus lasagna pancakes waffles omelette "
    "ribs wings lobster oysters salmon gnocchi pho kebab stew chili cheesecake donuts pretzels ravioli|fish and chips|pulled pork|fried rice|"
    "apple pie|ice cream|lamb chops|onion rings|spring rolls|egg salad|grilled cheese|corn bread"
)
GENRES = (
    "jazz rock pop blues folk metal punk soul funk disco techno house reggae classical opera country rap indie electronic ambient latin "
    "gospel grunge swing ska trance|hip hop|heavy metal|new wave|bossa nova|drum and bass|smooth jazz"
)
FILMS = "horror comedy drama thriller romance fantasy mystery western animated documentary sci-fi adventure action family war crime musical"
SERVICES = "Spotify YouTube Deezer Pandora Tidal Netflix Hulu Napster SoundCloud iTunes Audible Vimeo Plex|Apple Music|Amazon Music|Prime Video|Google Play"
VENUES = "restaurant bistro cafe bar pub diner tavern brasserie pizzeria steakhouse bakery cafeteria gastropub|food truck|sushi bar|coffee house|tea house|wine bar"
FACILITIES = "wifi parking terrace pool smoking sauna gym breakfast garden|outdoor seats|indoor seating|room service|a fireplace|live music|a playground"
SKY = "rain snow fog hail wind sunshine clouds thunder sleet drizzle rainy snowy foggy windy sunny cloudy stormy humid overcast hail storm frost blizzard"
HEAT = "hot cold warm cool freezing chilly mild boiling hotter colder warmer icy cooler scorching"
COLOURS = "red blue green yellow black white brown grey pink purple violet orange teal ivory crimson indigo|dark blue|light green|pale yellow|off white"
UNITS = "stars points percent kilograms grams liters miles kilometers meters euros dollars pounds degrees minutes hours boxes bottles pieces pages cups"
SORTS = "best cheapest newest latest highest rated|most popular|top rated|fastest|nearest|oldest|top|most recent|good|favourite|popular"
NEAR = "near nearby close|close by|around here|in the area|near me|within walking distance|not far away|around the corner|nearest|closest|in town|next door"
WORKS = "book novel album song film movie show series game poem painting essay magazine|tv series|video game|photo album|audio book|short story|comic book"
SIDE = "track song tune album artist record single piece|music|melody|symphony|sound track|concerto|ballad"
# fmt: on


def listed(text: str) -> list[str]:
    """`"a b|c d|e f g"`: single words before the first bar, then phrases; bars split phrases."""
    head, *phrases = text.split("|")
    return head.split() + phrases


def one(text: str) -> Maker:
    choices = listed(text)
    return lambda rng: rng.choice(choices)


def case(text: str, rng: random.Random) -> str:
    return text.title() if rng.random() < 0.6 else text


def name(rng: random.Random) -> str:
    given = rng.choice(GIVEN) if rng.random() < 0.6 else pseudo(rng).capitalize()
    return given


def person(rng: random.Random) -> str:
    family = rng.choice(FAMILY) if rng.random() < 0.5 else pseudo(rng).capitalize()
    middle = f"{rng.choice('ABCDEFGHJKLMRSTW')}. " if rng.random() < 0.06 else ""
    return f"{name(rng)} {middle}{family}" if rng.random() < 0.8 else name(rng)


def words(rng: random.Random, low: int, high: int) -> str:
    return " ".join(word(rng) if rng.random() < 0.75 else pseudo(rng) for _ in range(rng.randint(low, high)))


def title(rng: random.Random) -> str:
    """A book, song, film: 1 to 6 words, most with capitals, articles and prepositions inside as real titles have."""
    noun, more = (lambda: word(rng) if rng.random() < 0.7 else pseudo(rng)), rng.random()
    shapes = (
        lambda: f"the {noun()}",
        lambda: f"the {noun()} {noun()}",
        lambda: (
            f"{noun()} {rng.choice(('of', 'in', 'and', 'for', 'on', 'from', 'with', 'to', 'at', 'by'))} {rng.choice(('', 'the ', 'a '))}{noun()}"
        ),
        lambda: (
            f"the {noun()} {rng.choice(('of', 'in', 'and', 'to'))} {rng.choice(('', 'the ', 'my '))}{noun()} {noun()}"
        ),
        lambda: words(rng, 1, 1),
        lambda: words(rng, 2, 2),
        lambda: words(rng, 2, 4),
        lambda: words(rng, 3, 6),
        lambda: f"{name(rng)}'s {noun()}",
        lambda: f"{noun()}: {words(rng, 1, 3)}",
        lambda: f"{noun()} {rng.choice(('2', '3', 'II', 'IV', '1984', '2001', '7'))}",
        lambda: (
            f"{rng.choice(('how to', 'why', 'when', 'where', 'I', 'you', 'this is', 'what is', 'no', 'all', 'my'))} {words(rng, 1, 3)}"
        ),
        lambda: f"{words(rng, 1, 2)}, {words(rng, 1, 2)}",
    )
    text = rng.choice(shapes)()
    return text.title().replace("'S", "'s") if more < 0.6 else (text[:1].upper() + text[1:] if more < 0.7 else text)


def band(rng: random.Random) -> str:
    if rng.random() < 0.65:
        return person(rng)
    return case(
        rng.choice(("the {0}", "{0} {1}", "{0} and the {1}", "{0}", "dj {0}")).format(
            words(rng, 1, 1), words(rng, 1, 1)
        ),
        rng,
    )


def collection(rng: random.Random) -> str:
    tail = rng.choice(
        (
            "",
            "",
            " mix",
            " hits",
            " classics",
            " vibes",
            " favourites",
            " party",
            " sessions",
            " 90s",
            " essentials",
            " radio",
        )
    )
    return case(words(rng, 1, 3) + tail, rng)


def place(rng: random.Random) -> str:
    tail = rng.choice(
        [
            "Park",
            "Museum",
            "Bridge",
            "Tower",
            "Lake",
            "Station",
            "Square",
            "Garden",
            "Hall",
            "Center",
            "Beach",
            "Hill",
            "Cathedral",
            "Forest",
            "Harbor",
            "Trail",
            "Campus",
            "Zoo",
        ]
    )
    return f"{words(rng, 1, 2).title()} {tail}"


def house(rng: random.Random) -> str:
    """A named venue: a restaurant, shop, cinema."""
    tail = rng.choice(
        [
            "Grill",
            "House",
            "Kitchen",
            "Cinemas",
            "Theatres",
            "Bar",
            "Cafe",
            "Inn",
            "Room",
            "Tavern",
            "Corporation",
            "Pictures",
            "Corner",
            "Company",
            "Club",
            "Lounge",
        ]
    )
    return rng.choice(
        (
            f"{words(rng, 1, 2).title()} {tail}",
            f"The {words(rng, 1, 2).title()}",
            f"{name(rng)}'s",
            f"{name(rng)}'s {tail}",
        )
    )


def city(rng: random.Random) -> str:
    pick = rng.random()
    if pick < 0.55:
        text = rng.choice(CITIES)
    else:
        head, tail = (
            pseudo(rng).capitalize(),
            rng.choice(
                ("", "", "", "ville", "ton", "burg", " City", " Springs", " Falls", " Heights", " Park", " Hill")
            ),
        )
        text = rng.choice(("", "", "", "", "North ", "East ", "Saint ", "Port ", "Lake ", "New ", "San ")) + head + tail
    return text.lower() if rng.random() < 0.15 else text


def company(rng: random.Random) -> str:
    """Who comes along."""
    return rng.choice(
        (
            f"me and {name(rng)}",
            f"{name(rng)} and {name(rng)}",
            f"me, {name(rng)} and {name(rng)}",
            f"my {word(rng)} and I",
            f"me and my {word(rng)}",
            f"{name(rng)}, {name(rng)} and {name(rng)}",
            f"{name(rng)} and me",
        )
    )


def code(rng: random.Random) -> str:
    letters = "".join(rng.choice("ABCDEFGHKLMNPRSTVWXZ") for _ in range(rng.randint(1, 3)))
    return rng.choice(
        (
            f"{letters}{rng.randint(1, 9999)}",
            f"{letters}-{rng.randint(10, 999)}",
            f"{rng.randint(1000, 99999)}",
            f"#{rng.randint(1, 999)}",
            f"{letters.lower()}_{rng.randint(1, 99)}",
        )
    )


def phrase(rng: random.Random) -> str:
    return words(rng, 1, 4)


def sentence(rng: random.Random) -> str:
    return rng.choice(
        (
            "I will be {0}",
            "see you {1}",
            "the {0} is {2}",
            "call me {1}",
            "{0} {2} {0}",
            "bring the {0} and the {2}",
            "we need {0}",
            "{0} is {2} now",
        )
    ).format(word(rng), when(rng), word(rng))


def money(rng: random.Random) -> str:
    amount = rng.choice((str(rng.randint(1, 999)), f"{rng.randint(1, 99)}.{rng.randint(0, 99):02d}"))
    return rng.choice((f"${amount}", f"{amount} euros", f"{amount} dollars", f"{amount} pounds", amount))


def address(rng: random.Random) -> str:
    return f"{rng.randint(1, 999)} {words(rng, 1, 2).title()} {rng.choice(('Street', 'Road', 'Avenue', 'Lane', 'Way'))}"


def email(rng: random.Random) -> str:
    return f"{rng.choice(GIVEN).lower()}.{pseudo(rng, 2)}@{pseudo(rng, 2)}.{rng.choice(('com', 'org', 'net'))}"


def scramble(rng: random.Random) -> str:
    """Words without sense, for copy drills: 1 to 5 of any kind, so that only the position says what to copy."""
    return " ".join(
        rng.choice((word, word, pseudo, pseudo, name, lambda r: pseudo(r).capitalize(), few))(rng)
        for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 5)))
    )


MAKERS: dict[str, Maker] = {
    "name": name,
    "person": person,
    "title": title,
    "band": band,
    "collection": collection,
    "place": place,
    "house": house,
    "city": city,
    "number": number,
    "few": few,
    "clock": clock,
    "date": date,
    "when": when,
    "year": year,
    "company": company,
    "code": code,
    "phrase": phrase,
    "sentence": sentence,
    "money": money,
    "address": address,
    "email": email,
    "scramble": scramble,
    "word": word,
    "pseudo": pseudo,
    "country": lambda rng: rng.choice(COUNTRIES),
    "state": lambda rng: rng.choice(STATES),
    "cuisine": one(CUISINES),
    "dish": one(DISHES),
    "genre": one(GENRES),
    "film_kind": one(FILMS),
    "service": one(SERVICES),
    "venue": one(VENUES),
    "facility": one(FACILITIES),
    "sky": one(SKY),
    "heat": one(HEAT),
    "colour": one(COLOURS),
    "unit": one(UNITS),
    "sort": one(SORTS),
    "near": one(NEAR),
    "work": one(WORKS),
    "side": one(SIDE),
}


def make(kind: str, rng: random.Random) -> str:
    """A value of one of `MAKERS`' types; sometimes something that no list knows, as users say such things too."""
    if rng.random() < 0.08:
        return scramble(rng)
    return MAKERS[kind](rng)
