"""Words that the generator draws from: ordinary English, names, places, and syllables for words that nobody has seen.

All lists are written for this project. Words that name things in tool schemas matter twice: the tokenizer gives each of
them one token, so that `party_size` and "party" meet in the same embedding.
"""

from __future__ import annotations

import random

SCHEMA = ["name", "title", "id", "key", "kind", "type", "item", "items", "object", "subject", "topic", "label", "tag", "note", "text", "body", "message", "content", "description", "summary", "number", "count", "size", "amount", "total", "quantity", "limit", "rate", "rating", "value", "score", "level", "unit", "units", "price", "cost", "budget", "fee", "currency", "city", "state", "country", "region", "area", "place", "location", "address", "street", "zone", "district", "position", "latitude", "longitude", "point", "site", "date", "time", "day", "week", "month", "year", "start", "end", "begin", "until", "range", "timezone", "hour", "minute", "duration", "deadline", "period", "interval", "from", "to", "by", "at", "in", "on", "of", "for", "with", "and", "or", "per", "via", "max", "min", "best", "first", "last", "next", "new", "old", "current", "previous", "main", "other", "person", "people", "party", "guest", "guests", "member", "user", "owner", "author", "artist", "performer", "singer", "band", "sender", "recipient", "receiver", "customer", "client", "email", "phone", "contact", "account", "profile", "password", "username", "group", "team", "role", "status", "priority", "category", "genre", "style", "theme", "playlist", "album", "track", "song", "music", "movie", "film", "show", "series", "episode", "season", "book", "chapter", "page", "podcast", "radio", "station", "channel", "video", "game", "restaurant", "cuisine", "dish", "food", "drink", "meal", "table", "room", "hotel", "flight", "train", "bus", "taxi", "ticket", "seat", "class", "gate", "airport", "origin", "destination", "product", "brand", "model", "color", "colour", "weight", "height", "width", "length", "depth", "material", "shape", "version", "language", "format", "code", "file", "folder", "path", "entity", "relation", "condition", "temperature", "weather", "forecast", "facility", "sort", "description", "select", "part", "query", "search", "find", "get", "set", "add", "create", "make", "update", "delete", "remove", "book", "order", "buy", "send", "play", "stop", "open", "close", "show", "list", "check", "cancel", "start", "schedule", "reserve", "rent", "track", "move", "copy", "share", "rename", "convert", "translate", "compare", "calculate", "record", "log", "assign", "invite", "report", "service", "server", "host", "port", "url", "domain", "image", "photo", "picture", "document", "invoice", "payment", "transfer", "balance", "bank", "card", "loan", "source", "target", "creative", "work", "screening", "event", "rate", "reminder", "alarm", "timer", "meeting", "appointment", "task", "project", "issue", "comment", "review", "feedback", "survey", "light", "lamp", "door", "window", "camera", "sensor", "device", "speed", "volume", "mode", "scene", "heating", "battery", "vehicle", "car", "bike", "plant", "patient", "doctor", "medicine", "dose", "symptom", "recipe", "ingredient", "serving", "calories", "workout", "distance", "exercise", "steps", "course", "lesson", "student", "teacher", "grade", "exam"]

COMMON = """
the a an i you he she it we they me him her us them my your his its our their this that these those some any all each every
no not is are was were be been being am do does did done have has had can could will would shall should may might must let lets
go going goes went gone come came take took taken give gave given put get got want wants need needs like likes love would'd know think
tell ask say said see look looks looking looked find hear listen watch read write wrote call called named titled known play playing
played turn switch bring keep hold use using try help please thanks thank hey hi hello ok okay yes yeah sure right now then here there
where when what who whom whose which why how about above across after against along among around as because before behind below beside
between beyond but despite down during except inside into near nearest nearby closest close off onto out outside over past since so
still than through toward towards under unless up upon while within without again also always never ever often soon later early late
today tonight tomorrow yesterday morning afternoon evening night noon midnight weekend monday tuesday wednesday thursday friday saturday
sunday january february march april june july august september october november december spring summer autumn fall winter
one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty
forty fifty sixty seventy eighty ninety hundred thousand million half quarter couple dozen second third fourth fifth sixth
seconds minutes hours days weeks months years am pm o'clock ago
good great better worst bad big small large little long short high low hot cold warm cool dry wet nice fine fast slow quick easy hard
happy sad young whole full empty free busy cheap expensive fresh sweet sour spicy dark bright loud quiet strong weak heavy soft clean
dirty rich poor real true false same different own such more most less least few many much several another enough only just even very
too quite rather really maybe perhaps almost together alone away back forward left east west north south
man woman boy girl child children kid kids friend friends family mother father mom dad sister brother son daughter husband wife uncle
aunt cousin grandma grandpa neighbor boss colleague baby king queen prince princess lord lady captain hero wizard witch ghost angel devil
dog cat horse bird fish cow pig sheep goat duck lion tiger bear wolf fox rabbit mouse snake frog bee ant spider whale shark eagle owl crow
house home room kitchen garden yard street road bridge tower castle church school college university hospital library museum theater
theatre cinema bar pub cafe diner bistro tavern bakery shop store market mall park beach island lake river sea ocean mountain hill valley
forest desert field farm village town world earth moon sun star sky cloud rain snow wind storm fire water ice stone rock sand gold silver
iron wood glass paper silk leather cotton steel bread butter cheese milk coffee tea beer wine juice sugar salt pepper oil rice pasta soup
salad pizza burger steak chicken beef pork lamb bacon egg eggs cake pie cookie chocolate apple orange lemon banana berry grape peach pear
onion garlic tomato potato bean beans corn carrot head hand hands eye eyes heart face hair foot feet arm leg mind soul body blood bone life
death dream dreams hope fear love hate war peace power truth lie secret story history future past memory song dance voice sound noise
silence word words letter line circle square box bag bottle cup plate knife fork spoon chair bed desk clock watch ring key lock wall floor
roof stairs gate fence boat ship plane truck wheel engine machine computer screen keyboard printer cable radio television phone internet
money dollar dollars euro euros pound pounds cent cents point points star stars percent degree degrees mile miles meter meters kilometer
kilometers foot inch inches gram grams kilo kilos liter liters pound ounce red blue green yellow black white brown grey gray pink purple
violet crimson scarlet amber golden ivory indigo teal turquoise maroon beige jazz rock pop blues folk metal punk soul funk disco techno
house reggae classical opera country rap hip hop indie electronic ambient acoustic latin gospel grunge comedy drama horror thriller romance
fantasy mystery western animated documentary biography science fiction adventure cartoon novel poem essay saga trilogy sequel textbook
magazine painting photograph album soundtrack tune tunes melody ballad symphony concerto anthem hit hits top popular newest latest greatest
recent favorite favourite highly rated chronicle edition volume collection gallery trailer
sunny rainy cloudy windy snowy foggy stormy humid freezing chilly hotter colder warmer blizzard hail thunder fog drizzle sleet overcast
italian french chinese japanese indian thai greek turkish spanish mexican korean vietnamese german russian polish american british irish
african persian lebanese moroccan ethiopian brazilian peruvian cuban caribbean swedish danish dutch belgian portuguese hungarian
brunch breakfast lunch dinner supper snack dessert buffet reservation spot party seats outdoor indoor patio parking wifi pool terrace
brasserie steakhouse pizzeria gastropub oyster cafeteria food joint truck
create creating build built add adding added remove delete change changing changed set setting save load send sending sent receive email
text message reply forward post share publish print scan upload download install restart reboot lock unlock open close start stop begin
finish cancel confirm approve reject book reserve rent hire buy sell order pay charge refund return ship deliver track locate search seek
check verify test measure count calculate convert translate explain describe compare choose select pick filter sort rank rate review mark
score grade give award assign attach link connect join invite remind schedule plan arrange organize prepare cook bake clean wash fix repair
replace move copy rename transfer exchange swap log record note register enter fill submit file report show display list view
minutes schedule times showing shows shown airing running screening neighborhood neighbourhood area vicinity distance walking local
current previous upcoming next last following entire series saga installment
out of called named entitled from by with using featuring onto into include put insert throw
forecast temperature degrees weather climate outlook expected going happening
available possible important special public private local national global daily weekly monthly yearly annual general final total
""".replace("'", "").split()

GIVEN = ["Anna", "Ben", "Clara", "David", "Elena", "Felix", "Grace", "Hugo", "Irene", "Jonas", "Karen", "Leo", "Maria", "Nora", "Oscar", "Paula", "Quentin", "Rosa", "Simon", "Tara", "Ulrich", "Vera", "Walter", "Xenia", "Yusuf", "Zoe", "Amir", "Bianca", "Carlos", "Dina", "Emil", "Fatima", "Gustav", "Hanna", "Ivan", "Julia", "Kenji", "Lars", "Mina", "Niko", "Olga", "Pedro", "Rania", "Sven", "Tomas", "Uma", "Viktor", "Wendy", "Aiko", "Boris", "Chen", "Diego", "Esther", "Farid", "Gita", "Henrik", "Ingrid", "Javier", "Kofi", "Lucia", "Marco", "Nadia", "Omar", "Priya", "Rafael", "Sanjay", "Tariq", "Yara", "Alice", "Bob", "Charlie", "Diana", "Edward", "Frank", "George", "Helen", "Isaac", "Jack", "Kate", "Liam", "Martha", "Nathan", "Olivia", "Peter", "Robert", "Sarah", "Thomas", "Victoria", "William", "Michael", "James", "John", "Mary", "Linda", "Susan", "Lisa", "Nancy", "Betty", "Sandra", "Ashley", "Emily", "Donna", "Michelle", "Carol", "Amanda", "Melissa", "Deborah", "Stephanie", "Rebecca", "Laura", "Cynthia", "Amy", "Angela", "Brenda", "Pamela", "Nicole", "Samantha", "Katherine", "Christine", "Rachel", "Janet", "Andrew", "Joshua", "Kevin", "Brian", "Timothy", "Ronald", "Jason", "Jeffrey", "Ryan", "Jacob", "Gary", "Eric", "Stephen", "Larry", "Justin", "Scott", "Brandon", "Benjamin", "Samuel", "Gregory", "Patrick", "Alexander", "Dennis", "Jerry", "Tyler", "Aaron", "Jose", "Adam", "Douglas", "Zachary"]

FAMILY = ["Smith", "Johnson", "Brown", "Miller", "Davis", "Garcia", "Wilson", "Anderson", "Taylor", "Moore", "Jackson", "Martin", "Lee", "Thompson", "White", "Harris", "Clark", "Lewis", "Walker", "Hall", "Allen", "Young", "King", "Wright", "Hill", "Scott", "Green", "Adams", "Baker", "Nelson", "Carter", "Mitchell", "Roberts", "Turner", "Phillips", "Campbell", "Parker", "Evans", "Edwards", "Collins", "Stewart", "Morris", "Rogers", "Reed", "Cook", "Morgan", "Bell", "Murphy", "Bailey", "Cooper", "Richardson", "Cox", "Howard", "Ward", "Peterson", "Gray", "Watson", "Brooks", "Kelly", "Sanders", "Price", "Bennett", "Wood", "Barnes", "Ross", "Henderson", "Coleman", "Jenkins", "Perry", "Powell", "Long", "Hughes", "Flores", "Washington", "Butler", "Simmons", "Foster", "Bryant", "Russell", "Griffin", "Hayes", "Okafor", "Nakamura", "Petrov", "Lindqvist", "Moreau", "Rossi", "Schneider", "Novak", "Kowalski", "Fernandez", "Silva", "Costa", "Haddad", "Khan", "Patel", "Sharma", "Nguyen", "Tran", "Kim", "Park", "Sato", "Tanaka", "Ito", "Wang", "Zhang", "Liu", "Chen", "Yang", "Ibrahim", "Mensah", "Diallo", "Abebe", "Jansen", "Bakker", "Nilsson", "Hansen", "Virtanen", "Kovacs", "Popescu", "Dimitrov", "Papadakis", "Yilmaz", "Demir", "Cohen", "Levi", "Rahman", "Hossain", "Singh", "Gupta", "Fischer", "Weber", "Keller", "Braun", "Dubois", "Laurent", "Bianchi", "Ricci", "Oliveira", "Santos", "Alvarez", "Ortega"]

CITIES = """
London|Paris|Berlin|Madrid|Rome|Vienna|Prague|Lisbon|Dublin|Oslo|Stockholm|Helsinki|Warsaw|Budapest|Athens|Istanbul|Cairo|Lagos|Nairobi|Tokyo
Osaka|Kyoto|Seoul|Beijing|Shanghai|Mumbai|Delhi|Bangkok|Hanoi|Jakarta|Manila|Sydney|Melbourne|Auckland|Toronto|Montreal|Vancouver|Boston
Chicago|Seattle|Denver|Dallas|Houston|Austin|Phoenix|Miami|Atlanta|Portland|San Francisco|Los Angeles|New York|San Diego|Las Vegas|New Orleans
Buenos Aires|Rio de Janeiro|Sao Paulo|Mexico City|Cape Town|Hong Kong|Tel Aviv|Salt Lake City|Kansas City|St. Louis|Baton Rouge|Springfield
Fairview|Greenville|Bristol|Clinton|Franklin|Salem|Madison|Georgetown|Arlington|Ashland|Burlington|Manchester|Oxford|Newport|Milton|Riverside
Cleveland|Dayton|Lexington|Hudson|Oakland|Auburn|Jackson|Milford|Kingston|Dover|Winchester|Lancaster|Florence|Geneva|Naples|Troy|Utica|Tulsa
Omaha|Reno|Boise|Tucson|Memphis|Nashville|Detroit|Buffalo|Albany|Richmond|Norfolk|Savannah|Tampa|Orlando|Mobile|El Paso|Fort Worth|Santa Fe
Porto|Seville|Valencia|Marseille|Lyon|Nice|Munich|Hamburg|Cologne|Zurich|Basel|Turin|Milan|Venice|Krakow|Gdansk|Riga|Tallinn|Vilnius|Sofia
""".replace("\n", "|").strip("|").split("|")

COUNTRIES = """
France|Germany|Spain|Italy|Portugal|Ireland|Norway|Sweden|Finland|Denmark|Poland|Hungary|Greece|Turkey|Egypt|Nigeria|Kenya|Japan|China|India
Thailand|Vietnam|Indonesia|Philippines|Australia|New Zealand|Canada|Mexico|Brazil|Argentina|Chile|Peru|Colombia|South Africa|Morocco|Tunisia
Iceland|Estonia|Latvia|Lithuania|Ukraine|Romania|Bulgaria|Serbia|Croatia|Slovenia|Austria|Switzerland|Belgium|Netherlands|Luxembourg|Malta
Cyprus|Israel|Jordan|Lebanon|Saudi Arabia|Qatar|Oman|Yemen|Iraq|Iran|Pakistan|Nepal|Bhutan|Sri Lanka|Bangladesh|Laos|Cambodia|Malaysia
Singapore|Mongolia|South Korea|North Korea|Fiji|Samoa|Tonga|Cuba|Jamaica|Haiti|Panama|Costa Rica|Nicaragua|Honduras|Guatemala|Belize|Ecuador
Bolivia|Paraguay|Uruguay|Venezuela|Guyana|Suriname|Ghana|Togo|Benin|Mali|Niger|Chad|Sudan|Ethiopia|Somalia|Uganda|Rwanda|Burundi|Tanzania
Zambia|Malawi|Mozambique|Zimbabwe|Botswana|Namibia|Angola|Gabon|Cameroon|Liberia|Senegal|Gambia|Madagascar|Mauritius|Seychelles|Albania|Georgia
Armenia|Azerbaijan|Kazakhstan|Uzbekistan|Cayman Islands|Faroe Islands|Solomon Islands|United Kingdom|United States|Czech Republic|Ivory Coast
""".replace("\n", "|").strip("|").split("|")

STATES = """
Alabama|Alaska|Arizona|Arkansas|California|Colorado|Connecticut|Delaware|Florida|Georgia|Hawaii|Idaho|Illinois|Indiana|Iowa|Kansas|Kentucky
Louisiana|Maine|Maryland|Massachusetts|Michigan|Minnesota|Mississippi|Missouri|Montana|Nebraska|Nevada|New Hampshire|New Jersey|New Mexico
New York|North Carolina|North Dakota|Ohio|Oklahoma|Oregon|Pennsylvania|Rhode Island|South Carolina|South Dakota|Tennessee|Texas|Utah|Vermont
Virginia|Washington|West Virginia|Wisconsin|Wyoming|AL|AK|AZ|AR|CA|CO|CT|DE|FL|GA|HI|ID|IL|IN|IA|KS|KY|LA|ME|MD|MA|MI|MN|MS|MO|MT|NE|NV|NH
NJ|NM|NY|NC|ND|OH|OK|OR|PA|RI|SC|SD|TN|TX|UT|VT|VA|WA|WV|WI|WY
""".replace("\n", "|").strip("|").split("|")

ONSETS = ["b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "br", "ch", "cl", "dr", "fl", "gr", "kr", "pl", "pr", "qu", "sh", "sk", "sl", "sp", "st", "tr", "th", "y"]
VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "ee", "ie", "io", "oo", "ou", "y", "é", "ö", "ü", "á"]
CODAS = [*[""] * 12, *["n", "r", "s", "l", "t", "m", "n", "r", "s", "l", "d", "k", "x", "nd", "st", "ng", "ll"]]
OTHER_SCRIPTS = ["абвгдежзиклмнопрстуфхцч", "αβγδεζηθικλμνξοπρστ", "あいうえおかきくけこさしすせそ", "アイウエオカキクケコ", "山川日月火水木金土", "אבגדהוזחטי"]


def pseudo(rng: random.Random, syllables: int = 0) -> str:
    """A word that exists in no language, lower case. One in 40 is written in another script."""
    if rng.random() < 0.025:
        letters = rng.choice(OTHER_SCRIPTS)
        return "".join(rng.choice(letters) for _ in range(rng.randint(2, 5)))
    count = syllables or rng.choice((1, 2, 2, 2, 2, 3, 3))
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(count))


def word(rng: random.Random) -> str:
    """An ordinary word, lower case."""
    return rng.choice(PLAIN)


PLAIN = sorted({w for w in COMMON + SCHEMA if len(w) > 2})
