# ruff: noqa: E501
"""Hand-written domains: what people ask assistants for, with every tool's names, parameters and phrasings.

A tool line is `names | names ...`; a parameter is `slot:kind=name|name`; patterns are in the language of `grammar`.
A scene draws one of the names, so that the model learns that names are given by the request, not by us.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.seed.grammar import slots


@dataclass(frozen=True)
class Param:
    slot: str
    kind: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Tool:
    names: tuple[str, ...]
    params: tuple[Param, ...]
    patterns: tuple[str, ...]


def tool(names: str, params: str, *patterns: str) -> Tool:
    listed = []
    for item in params.split():
        head, _, alternatives = item.partition("=")
        slot, _, kind = head.partition(":")
        listed.append(Param(slot, kind or slot, tuple(alternatives.split("|")) if alternatives else (slot,)))
    known = {p.slot for p in listed}
    assert all(s in known for pattern in patterns for s in slots(pattern)), names
    return Tool(tuple(names.split("|")), tuple(listed), patterns)


EVERYDAY: tuple[Tool, ...] = (
    tool(
        "play_song|start_music|music_player|PlayTrack|play_media|stream_audio",
        "song:title=song|track|song_title|tune performer:band=artist|performer|singer|musician album:title=album|record|album_title service=service|platform|app|source "
        "year=year|era|decade genre=genre|style|music_style sort=sort|order|ranking side=item|kind|music_type list:collection=playlist|mix|queue",
        "play {song}[ by {performer}][ (on|using|with|from) {service}]",
        "(play|start|put on|i want to hear|let me hear) {performer}[ (on|using) {service}]",
        "play (some|the|me some|me|any|a) [{sort} ]{genre}[ (music|songs)][ from [the ]{year}][ (on|using) {service}]",
        "(play|i would like to hear|can you play) (the|a|an|some) [{sort} ][{year} ]{side} (by|from|of) {performer}[ (on|using|in) {service}]",
        "(play|put on|open) the (album|record) {album}[ by {performer}][ on {service}]",
        "play (my|the) {list} (playlist|mix)[ (on|from) {service}]",
        "play {list} on {service}", "(play|use|open|start|turn on) {service}", "play {performer} {song}", "play {year} (music|songs|hits)[ (on|from) {service}]",
        "play {side} {song}[ by {performer}]", "play music (from|by) {performer}[ from [the ]{year}][ on {service}]",
        "(let's listen to|listen to|stream|start) {song} (by|from) {performer}", "play the {sort} {side}[ by {performer}][ from {year}]",
    ),
    tool(
        "save_to_list|append_track|AddSong|collect_song|put_in_playlist|library_add",
        "list:collection=playlist|list|target|collection song:title=title|song|what|track performer:band=artist|singer|by_whom side=kind|item|type owner:owner=owner|whose|user",
        "add {song} to [{owner} ][the ]{list}[ (playlist|list|collection)]",
        "(put|place|include|insert|add) (this|the|a|another) {side}[ by {performer}] (to|in|into|onto) {owner} {list}[ (playlist|list)]",
        "add {performer} to [{owner} |the ]{list}[ playlist]",
        "(i want|i'd like|i need) {song}[ by {performer}] (in|added to|put into|on) {owner} {list}[ (playlist|list)]",
        "(can you |please |)(add|put) {song}[ by {performer}] (to|in|on) {owner} (playlist|list)( called| named| titled|) {list}",
        "add (this|the current) {side} to {list}", "(add|put) {side} by {performer} (in|to) the (playlist|list) {list}", "save the {side} {song} to {list}",
        "my {list} (playlist|list) (needs|should have) {song}[ by {performer}]", "expand {owner} {list} with {song}",
    ),
    tool(
        "weather_report|forecast|check_weather|WeatherLookup|get_climate|sky_now",
        "city=city|town|where country=country|nation state=state|province|region place=place|landmark|spot|park when=when|time|date|day sky=condition|expect|phenomenon|sky "
        "heat=heat|feel|warmth here:here=here|local near=nearness|proximity",
        "(what is|what's|how is|tell me|give me) the (weather|forecast|weather forecast|weather like) (in|for|at) {city}[ (,|) {state}][, {country}][ {when}]",
        "(what's|what is|what will) the (weather|forecast) (be|) [for |on ]{when} (in|for) {city}[ {country}| {state}|]",
        "(will|is|does) (it|there) (be|going to be|) {sky} (in|at) {city}[ {state}][ {when}]",
        "(will it be|is it going to be|is it|how much) {heat} (in|at) {city}[, {country}][ {when}]",
        "is it (going to |gonna |)(be |get |){heat} (in|at) {place}[ {when}]", "(weather|forecast) (for|in|at) {place}[ {when}]",
        "(weather|forecast) for {city}[, {state}][ {country}]", "(will|is) (there be|there|it be) {sky} (in|for) {state}[ {when}]",
        "(what|how)('s the weather| will the weather be| is the weather|'s the forecast) [{when} ]in {country}", "(tell me|what is) the (weather|forecast) {when}[ (in|at) {place}]",
        "is it {heat} {here}", "what's the weather (like|) {near} {place}", "is (it|there) {sky} (close to|) {here}[ {when}]",
        "(what|how) (is|will) the weather [be ]{when} {near}[ {city}]", "will {city}[ {state}] (get|have|see|face) {sky}[ {when}]", "{when} will it be {heat} in {state}",
    ),
    tool(
        "reserve_table|book_dining|TableBooking|make_reservation|dine_out|get_table",
        "venue=venue|place_type|kind|type_of_place house=restaurant|name|venue_name|at city=city|town|location state=state|region country=country cuisine=cuisine|food_style|kitchen "
        "dish=dish|meal|food|menu_item few=people|party|guests|seats|group_size company=company|companions|who|with_whom when=when|time|at_time|date sort=quality|sort|ranking "
        "near=distance|near|nearness facility=feature|facility|amenity place=landmark|close_to|nearby_place",
        "(book|reserve|get|find|i need|i want) (a table|a spot|a place|seats|a reservation) [for {few}[ people]] (at|in) (a|the|) {house}[ in {city}[, {state}]][ (for|at|on|) {when}]",
        "(book|reserve|find|i need|i want) (a|the|me a) [{sort} ]{venue}[ (in|near|at) {city}[ {state}]]< for {few}[ (people|persons|guests)];[ (for|at|on|) {when}]>",
        "(book|reserve|find|i'd like) a [{sort} ]{venue} (that serves|serving|which serves|with) {cuisine}[ (food|cuisine|dishes)][ in {city}][ for {few}][ {when}]",
        "(book|i want|get me|make|i'd like) a (reservation|table|spot) (at|in) a {venue} (that serves|with|serving|to eat|known for) {dish}[ in {state}][ for {few}][ (at|in|for|) {when}]",
        "(book|reserve|i need) (a table|a reservation|a spot|something|a restaurant) for {company}[ at {house}][ in {city}][ {country}][ {when}]",
        "(book|find|get) [me ](a|the) {sort} {venue} {near}[ in {city}][ for {few}][ {when}]", "(book|reserve) (a table|something) (in|at) {country}< for {few};[ (at|for|) {when}]>",
        "(book|find) a {venue} (with|that has|having) {facility}[ in {city}[ {country}]][ for {few}[ people]]", "(table|reservation|booking) for {few}[ (at|in) {house}][ in {state}][ {when}]",
        "(we|i) (want|would like) to (eat|dine|have dinner) (at|in) {house}[ in {city}][ with {company}][ {when}]", "i want to eat {cuisine}[ food] in {city}, {state}[ {when}]",
        "(book|reserve) a {cuisine} {venue}[ {near}][ in {country}] for {few}", "(i want to go to|take me to|we are going to) {house}[ in {city}]< with {company};[ {when}]>",
        "(find|book) a {venue} {near} {place}[ for {few}][ {when}]", "(eat|have|get) {dish} (at|in) a {venue}[ {near}][ in {city}]",
    ),
    tool(
        "score_book|rate_item|give_rating|ReviewScore|submit_rating|star_it",
        "title=title|item|name|rated_thing few=score|stars|value|points|rating out:few=out_of|maximum|scale|max_score unit=unit|measure|scale_unit which:which=which|selector|position "
        "work=type|kind|item_type part:part=part|format|volume_kind",
        "(rate|score|i rate|i would rate|i'd rate|i give) {title} {few}[ {unit}][ out of {out}[ {unit}]]",
        "(give|award|i would give|i'd give|assign) {title} (a |a rating of |){few}[ out of {out}][ {unit}]",
        "(give|award|assign|add) {few}[ {unit}] (to|for) {title}[ out of {out}]",
        "(rate|score|give) {which} {work} (a |an |){few}[ (out of|of) {out}][ {unit}]", "(give|award|add) {few} (out of|of) {out} {unit} to {which} {work}",
        "(i think|i feel|i'd say) {which} (book|{work}) (deserves|should get|is worth) (a |){few}[ out of {out}][ {unit}]",
        "(rate|mark) the {work}( called| titled|) {title} {few}[ {unit}][ out of {out}]", "rate {which} {part} {few}[ {unit}]", "{title} (gets|deserves|should get|is worth) {few}[ {unit}]",
        "(give|rate) (the|a|this) {part} {title} (a |){few}[ out of {out}]", "(give|rate) {which} {part} (a |a rating of |){few}[ {unit}]", "a {few} (for|goes to) {title}[ out of {out}]",
    ),
    tool(
        "find_media|search_works|MediaSearch|look_up_title|catalog_search|show_title",
        "title=title|name|what|query work=type|kind|media_type|format",
        "(find|show|show me|search for|look for|look up|get|get me|find me) {title}",
        "(find|show|show me|search for|look for|get me|i want|i'm looking for) (the|a|an) {work}( called| named| titled| entitled|) {title}",
        "(find|show me|get|search|can you find) {title}, (the|a) {work}", "(find|show me|search for|where can i (see|buy|find|watch)) the {title} {work}",
        "(i want to|i'd like to|can i|let me) (see|watch|read|hear) {title}", "(where|how) can i (find|get|see|watch|buy) {title}", "{work} {title}", "is there a {work} (called|named) {title}",
        "(show|play|find) (me |)the {work} {title}", "(what is|do you know|have you got) {title}", "please (search|look|look up|find) {title} for me", "i need the {work} of {title}",
    ),
    tool(
        "cinema_times|movie_finder|ShowtimeSearch|find_screening|film_schedule|what_is_on",
        "title=film|movie|title|picture film_kind:films=genre|film_type|category|kind house=cinema|theater|venue|chain near=distance|nearness|where hall:hall=place_type|venue_type "
        "when=when|time|showtime|date what:listing=listing|want|request",
        "(find|show|show me|get|give me|what are|i need) (the |){what}( for| at| of|) {house}",
        "(when|what time|where) is {title} (playing|showing|on|running)[ at {house}][ {when}]",
        "is {title} (playing|showing|on|running)( at| in|) (the |a ){near} {hall}[ {when}]", "(find|show me|what|list) {film_kind} (playing|showing|that are on|running|) {near}[ {when}]",
        "(show|give|find|get)( me|) {what} for {film_kind}[ {near}][ {when}]", "(what|which) {film_kind} (are|is) (playing|showing|on) (at|in) {house}[ {when}]",
        "(find|where is) (the |a ){near} {hall} (showing|playing|with|that plays) {title}[ {when}]", "(find|where is) the {near} {hall} (showing|playing|with|for) {film_kind}[ {when}]",
        "(find|check|see) (if|whether) {title} is (playing|on) (at|in) {house}[ {when}]", "i want to (see|watch) {title}( at| in) (a|the) {hall}[ {near}][ {when}]",
        "{what} for {house}", "(find|what is) the {what} of {title}[ at the {hall}]", "(can i|i'd like to|i want to) (see|watch) {title}( at {house}| at the {hall}|)[ {when}]",
        "(are there|are) any {film_kind} (on|playing|showing)( at the {hall}| at {house}|)[ {near}][ {when}]", "what's (on|playing) at {house}[ {when}]",
    ),
    tool("send_message|text_contact|SendText|message_someone", "person=to|recipient|contact|receiver sentence=text|message|body|content service=app|channel|via",
         "(text|message|tell|write to) {person}( that| saying|:|,) {sentence}[ (on|via) {service}]", "send (a message|a text|{service} message) to {person}( saying| that says|:) {sentence}",
         "let {person} know( that|) {sentence}", "send {sentence} to {person}[ (via|on|through) {service}]"),
    tool("book_flight|find_flights|FlightSearch|plane_ticket", "a:city=from|origin|departure|from_city b:city=to|destination|arrival|to_city when=date|when|depart|day few=seats|passengers|tickets class:cabin=class|cabin",
         "(book|find|get me|i need) (a flight|flights|plane tickets|a ticket)< from {a}; to {b}>[ (on|for|) {when}][ for {few}][ in {class}]", "(fly|flying|i want to fly)< to {b};[ from {a}]>[ {when}][ in {class}]",
         "{few} tickets< from {a}; to {b}>[ {when}]", "(flights|flight) {a} to {b}[ {when}]"),
    tool("order_taxi|call_cab|RideRequest|get_ride", "a:place=pickup|from|start|pick_up_at b:address=drop|to|destination|dropoff when:clock=time|when|at few=riders|people|seats",
         "(get|call|order|i need) (me |)a (taxi|cab|ride|car)< to {b};[ from {a}]>[ at {when}][ for {few}]", "(pick me up|pick us up) (at|from) {a}[ at {when}][ and (take|bring) (me|us) to {b}]", "take me to {b}[ at {when}]"),
    tool("create_event|add_appointment|CalendarAdd|schedule_meeting", "what:phrase=title|subject|event|topic when=when|date|start|time person=with|attendee|guest|invitee place=where|location|place",
         "(schedule|add|put|create|set up) (a|an|the|) {what}< (on|for|at|) {when};[ with {person}];[ at {place}]>", "(meet|meeting with|appointment with) {person}[ at {place}] {when}[ about {what}]",
         "i (have|am having) (a|an) {what} {when}[ with {person}]", "add {what} to my calendar[ for {when}]"),
    tool("set_reminder|remind_me|AddReminder|nudge", "what:phrase=task|text|about|what when=time|when|due", "remind me (to|about|of) {what}[ (at|on|) {when}]", "(set|create|add) a reminder[ for {when}] (to|about|for) {what}", "don't let me forget {what}[ {when}]"),
    tool("set_alarm|wake_up|AlarmSet", "clock=time|at|when phrase=label|name|note", "(wake me up|wake me|get me up) at {clock}", "set (an|the|my) alarm (for|at) {clock}[ (called|named|labelled) {phrase}]", "alarm {clock}"),
    tool("start_timer|countdown|TimerStart", "n:number=amount|duration|length unit=unit|time_unit phrase=name|label", "(set|start) a (timer|countdown) (for|of) {n} {unit}[ (called|named|for) {phrase}]", "{n} {unit} timer[ for {phrase}]"),
    tool("switch_light|light_control|LampSet|set_lights", "room:room=room|where|zone colour=color|colour|hue number=brightness|level|percent state:onoff=state|power|switch",
         "turn (the |){room} (lights|light|lamp) {state}", "(make|set|turn) (the |){room} (lights|lamp|light)( to|) {colour}[ at {number} percent]", "(dim|set|bring) the (light|lights) in the {room} to {number}( percent|)", "turn {state} the (light|lamp|lights) in the {room}"),
    tool("set_heating|thermostat|ClimateSet", "room:room=room|zone|area number=degrees|target|temperature when:clock=until|from|time", "(set|put|make) (the |){room} (to|at) {number} degrees[ (until|from|at) {when}]", "(heat|cool) the {room} to {number}[ until {when}]"),
    tool("transfer_money|send_payment|PayPerson|wire", "money=amount|sum|how_much person=to|payee|recipient account:account=from|account|source phrase=note|reason|reference",
         "(send|transfer|pay|wire) {money} to {person}[ from my {account}[ account]][ for {phrase}]", "(pay|give) {person} {money}[ for {phrase}]", "i owe {person} {money}[ for {phrase}]"),
    tool("convert_amount|unit_convert|ConvertUnits", "n:number=amount|value|quantity a:unit=from|from_unit|source b:unit=to|to_unit|target", "(convert|change|turn) {n} {a} (to|into) {b}", "how many {b} (are|is|in) {n} {a}", "what is {n} {a} in {b}"),
    tool("translate|translate_text|Translator", "phrase=text|words|phrase b:tongue=to|target|language a:tongue=from|source", "(translate|put) {phrase}[ from {a}] (to|into) {b}", "(how do you say|what is|say) {phrase} in {b}", "what does {phrase} mean in {b}"),
    tool("add_to_cart|order_product|ShopOrder|buy_item", "thing:phrase=product|item|article number=quantity|count|how_many colour=color|colour size:size=size|fit money=budget|max_price|price_limit house=shop|store|seller",
         "(buy|order|get|add) {number} {thing}[ in {colour}][ (from|at) {house}][ (for under|below|up to) {money}]", "(i need|i want|find me) (a|the) {colour} {thing}[ in size {size}][ from {house}]", "(add|put) {thing} (to|in) (my|the) cart[, size {size}]"),
    tool("track_parcel|order_status|ParcelTrace", "code=number|id|tracking_code|order house=carrier|company|shop", "where is (my |)(order|parcel|package) {code}[ from {house}]", "track {code}[ with {house}]", "(what is|check) the status of {code}"),
    tool("find_recipe|cook_this|RecipeSearch", "dish=dish|recipe|meal item:word=ingredient|with|containing few=servings|people cuisine=cuisine|style number=minutes|max_time",
         "(how do i (make|cook)|recipe for|find a recipe for) {dish}[ with {item}][ for {few}][ in {number} minutes]", "(cook|make) (something|a meal) {cuisine}[ with {item}][ for {few}]", "what can i (cook|make) with {item}[ in {number} minutes]"),
    tool("get_directions|navigate|RoutePlan", "a:place=from|start|origin b:house=to|destination|goal mode:mode=by|mode|transport", "(directions|route|way|how do i get)[ from {a}] to {b}[ by {mode}]", "(navigate|take me|drive) to {b}[ from {a}]", "how far is {b} from {a}[ by {mode}]"),
    tool("open_ticket|report_issue|IssueCreate", "phrase=title|summary|problem person=assignee|owner|for prio:prio=priority|severity|level code=project|component",
         "(open|create|file|report) (a|an) [{prio} ](ticket|issue|bug)( about|:| for) {phrase}[ in {code}][ (for|assigned to) {person}]", "assign {phrase} to {person}[ (with|at) {prio} priority]"),
    tool("search_mail|find_email|MailSearch", "person=from|sender|by what:phrase=subject|about|topic when=since|after|date", "(find|show|search) (mails|emails|messages|mail)< from {person};[ about {what}]>[ since {when}]", "did {person} (write|mail) (me |)about {what}[ {when}]"),
    tool("call_person|dial|PhoneCall", "person=name|who|contact device:device=device|line|phone", "(call|phone|ring|dial) {person}[ on (his|her|the|my) {device}]", "i want to (talk|speak) to {person}[ on the {device}]"),
    tool("news_search|headlines|NewsFeed", "phrase=topic|about|subject country=country|region house=source|paper when=date|since", "(news|headlines|articles|what's new) (about|on) {phrase}[ (in|from) {country}][ {when}]", "what does {house} (say|write) about {phrase}[ {when}]"),
    tool("hotel_booking|reserve_room|StayFinder", "city=city|where|town house=hotel|name few=nights|guests|rooms a:date=check_in|arrive|from b:date=check_out|leave|until facility=with|amenity",
         "(book|find|reserve) (a hotel|a room|{house})[ in {city}][ from {a} (to|until) {b}][ with {facility}]", "(stay|staying|sleep) in {city}[ at {house}]< from {a}; (to|till|until) {b}>", "{few} (nights|rooms|guests)( in| at) {city}[ from {a}]"),
    tool("train_times|rail_search|TrainLookup", "a:city=from|start b:city=to|end clock=at|after|time when:date=day|date", "(trains|train|next train)< from {a}; to {b}>[ (at|after) {clock}][ on {when}]", "when does the train (leave|go)[ from {a}] to {b}[ on {when}]"),
    tool("stock_quote|share_price|TickerGet", "house=company|name|firm when:date=date|day", "(share price|stock|quote) (of|for) {house}[ on {when}]", "what is {house} (trading at|worth)[ {when}]"),
    tool("log_workout|track_exercise|FitLog", "what:word=exercise|activity|sport n:number=amount|count unit=unit|measure when=when|date", "(log|record|i did) {n} {unit} of {what}[ {when}]", "i {what} (for|) {n} {unit}[ {when}]"),
    tool("log_medicine|dose_record|MedLog", "what:pseudo=medicine|drug|name n:number=dose|amount person=patient|who clock=time|at", "(give|gave) {person} {n} (mg |)of {what}[ at {clock}]", "{person} (took|takes) {n} {what}[ at {clock}]", "(log|record) {n} of {what} for {person}"),
    tool("rename_file|file_rename|RenameDoc", "a:phrase=old|from|current b:phrase=new|to|into", "(rename|change the name of) {a} to {b}", "{a} (should be|is now) (called|named) {b}"),
    tool("move_file|relocate|MoveDoc", "what:phrase=file|item|document a:collection=from|source b:collection=to|target|folder", "(move|copy|put) {what}[ from {a}] (to|into) {b}", "{what} (belongs|goes) in {b}"),
    tool("add_expense|log_cost|ExpenseAdd", "money=amount|cost what:phrase=item|for|reason house=shop|vendor|paid_to when:date=date|day", "(i spent|spent|add|log) {money} (on|for) {what}[ at {house}][ {when}]", "{what}[ (from|at) {house}] cost (me |){money}"),
    tool("make_note|write_note|NoteAdd", "sentence=text|note|content phrase=title|heading|tag", "(note|write down|remember|take a note)( that|:|) {sentence}[ under {phrase}]", "(add|create) a note( called| titled) {phrase}( saying|:|) {sentence}"),
    tool("watch_show|tv_play|VideoStart", "title=show|title|series n:few=season|series_number e:few=episode|part service=on|service|app", "(watch|play|put on|continue) {title}[ season {n}[ episode {e}]][ on {service}]", "(play|show) episode {e} of {title}[ on {service}]"),
    tool("play_podcast|podcast_start|CastPlay", "title=podcast|show|name band=host|by few=episode|number", "(play|start) the podcast {title}[ by {band}]", "(play|start) episode {few} of {title}", "the latest {title} podcast[ with {band}]"),
    tool("plant_water|water_plants|GardenSet", "what:word=plant|bed number=minutes|liters when=when|time", "water the {what}[ for {number} minutes][ {when}]", "give the {what} {number} liters[ {when}]"),
)  # fmt: skip

EXTRA: dict[str, str] = {
    "owner": "my my my my our his her their|my|anna's|tom's|the",
    "here": "here|my current location|where i am|my location|current position|this place|my position|my current place|current spot",
    "which": "this that last next|the second|the newest|the first|the other|the whole|your",
    "part": "volume sequel edition part issue season episode chapter reissue draft",
    "films": "movies films comedies thrillers westerns documentaries cartoons|horror movies|animated films|action movies|science fiction films|family movies|romantic comedies",
    "hall": "cinema theater theatre multiplex|movie house|film house|picture house|film palace|drive-in",
    "listing": "programme times showtimes listings films|cinema times|film programme|evening shows|film times|start times|show times",
    "cabin": "economy business first coach|first class|business class|premium economy",
    "room": "kitchen bedroom bathroom hall office garage attic basement garden|living room|dining room|guest room|kids room|front porch",
    "onoff": "on off",
    "account": "savings checking joint business holiday|credit card|rainy day",
    "tongue": "french german spanish italian japanese chinese russian greek turkish dutch polish arabic hindi korean swedish latin",
    "size": "small medium large XL S M L 38 40 42 44 10 12",
    "mode": "car bike train bus foot ferry|public transport|electric scooter",
    "prio": "urgent high low critical normal minor",
    "device": "mobile landline cell speaker headset|work phone|home phone|second line",
}
