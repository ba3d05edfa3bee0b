"""What questions are about: words, names and places, real and made up; some real ones are kept for the evaluation."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from .phrasing import pick
from .split import held

_REAL = """
lantern bridge candle dragon engine forest garden hammer island jacket kettle ladder magnet needle orange pencil
quarter rabbit saddle tunnel violin walnut yellow zebra anchor basket camera desert eagle feather guitar harbor insect
jungle kitten lemon marble nectar ocean parrot quilt rocket silver tiger umbrella valley window apple banana cherry
date elder fig grape honey ivy juice kiwi lime mango olive peach quince raisin spinach tomato vanilla wheat yogurt
bread butter cheese donut egg flour ginger ham icing jelly ketchup lettuce mustard noodle onion pepper rice salt sugar
turnip vinegar water bear camel deer elephant fox goat horse ibis jaguar koala lion mouse newt otter panda quail raven
snake turtle viper whale yak ant bee crow duck eel frog gull hawk kite lark mole owl pig rat seal toad wasp wolf worm
arm bone chest elbow finger hand knee leg mouth neck palm rib shin thumb toe wrist ball cup dish fork glass jar knife
lamp mug napkin oven plate spoon table vase chair desk door floor house kitchen mirror pillow roof shelf sofa stairs
stove towel wall boat car train plane truck bicycle wagon wheel pedal motor sail anvil axe brush chain drill file glue
hook iron jug lock mallet nail pliers rope saw screw tool wedge wrench coat dress glove hat jeans scarf shirt shoe
skirt sock suit vest zipper cloud dew fog frost hail ice lightning mist rain snow storm thunder wind beach canyon cliff
dune field glacier hill lake meadow mountain pond reef river shore spring stream swamp volcano wave actor baker cook
dentist farmer guard hunter judge king lawyer miner nurse painter queen rider sailor tailor uncle waiter writer aunt
baby child doctor friend mother sister artist boxer clerk driver expert father guest hero idiot jester knight leader
model novel oracle pilot rebel singer teacher usher victim wizard youth castle church hotel library market museum
office palace prison school shop station temple theater tower village amber bronze copper crystal diamond emerald gold
jade lead mercury nickel opal pearl quartz ruby steel tin topaz zinc angle circle cone cube line oval point prism
radius sphere square triangle album ballad chorus drum flute harp lyric melody opera piano rhythm song trumpet tune
whistle atom cell energy force gravity heat laser matter neutron orbit planet quantum rust sensor theory vacuum weight
binary cache code data error folder gateway hash index kernel loop memory network output packet query router server
thread upload vector branch flower grass leaf moss petal root seed stem thorn tree vine weed acorn bark birch cedar
daisy fern holly lily maple oak pine rose tulip willow ankle beard cheek eyebrow battle border cannon danger empire
flag grave honor invasion justice kingdom law mission nation order peace quest rescue shield target union victory
weapon army bullet camp defense escape flight gun helmet blanket bottle bucket button carpet cushion curtain drawer
fence gate hinge ink journal key letter map notebook package quill ribbon stamp ticket urn wallet adventure beautiful
celebrate chocolate dangerous education furniture gardening happiness important knowledge landscape microscope
orchestra parachute raspberry saxophone telescope universe vegetable waterfall xylophone yesterday alphabet backpack
calendar daughter envelope festival goldfish hospital interior joystick keyboard lemonade medicine necklace overcoat
painting question rainbow sandwich teaspoon umpire vacation warehouse yardstick zeppelin abroad bitter clever dusty
eager fancy gentle humble jolly keen lazy mighty noble polite quiet rapid silent tender upset vivid wicked young
"""
_NAMES = """
Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Maria Noah Olivia Paul Quinn Rosa Sam Tina Umar Vera Will
Xenia Yusuf Zoe Adam Bella Carlos Diana Eric Fiona George Hannah Ivan Julia Kevin Laura Max Nina Oscar Petra Rita Simon
Tom Ursula Victor Wendy Yara Zack Ali Bruno Chloe Dina Elena Frank Gina Hugo Irene James Karim Lena Mark Nora Otto
Priya Ravi Sofia Theo Uma Vince Walter Aisha Boris Cindy Derek Edith Farah Greta Hassan Ines Jonas Kim Lucas Mia Nico
Omar Pablo Rachel Sarah Tariq Ulla Viktor Yuki Amir Bianca Dora Emil Freya Gabriel Helen Igor Jane Klaus Linda Mateo
Naomi Olga Peter Robert Stella Thomas Valerie William Alice Bob Charlie Daniel Elliot Harry Isabel John Kenji Louise
Michael
"""
_CITIES = """
Paris London Berlin Madrid Rome Vienna Oslo Dublin Lisbon Athens Prague Warsaw Budapest Helsinki Stockholm Amsterdam
Brussels Zurich Geneva Munich Hamburg Milan Naples Turin Florence Venice Barcelona Seville Porto Lyon Nice Marseille
Istanbul Ankara Cairo Lagos Nairobi Accra Tunis Dakar Tokyo Osaka Kyoto Seoul Busan Beijing Shanghai Mumbai Delhi
Chennai Lahore Karachi Dhaka Bangkok Hanoi Manila Jakarta Singapore Sydney Melbourne Perth Auckland Toronto Montreal
Vancouver Ottawa Calgary Chicago Boston Seattle Denver Houston Dallas Austin Miami Atlanta Detroit Phoenix Portland
Lima Bogota Quito Santiago Havana Caracas Brasilia Riga Vilnius Tallinn Sofia Bucharest Belgrade Zagreb Kiev Minsk
Tbilisi Baku Tehran Baghdad Riyadh Dubai Doha Amman Beirut
"""
_LONG_CITIES = [
    "New York", "Los Angeles", "San Francisco", "Mexico City", "Hong Kong", "Cape Town", "Buenos Aires",
    "Rio de Janeiro", "Tel Aviv", "New Delhi", "San Diego", "Las Vegas", "Abu Dhabi", "Kuala Lumpur", "Sao Paulo",
    "Salt Lake City",
]  # fmt: skip
_COUNTRIES = """
France Germany Spain Italy Poland Norway Sweden Finland Denmark Ireland Greece Turkey Egypt Kenya Ghana Nigeria Morocco
Japan China India Nepal Vietnam Thailand Canada Mexico Brazil Peru Chile Cuba Austria Hungary Romania Ukraine Estonia
Latvia Iran Iraq Jordan Israel Qatar Mali Chad Niger Sudan Angola Zambia Fiji Samoa Portugal Belgium Iceland Croatia
Serbia Albania Malta
"""
_BELONGINGS = """
cats dogs books cars hats pens bikes coins apples horses cows hens goats ducks birds rabbits turtles snakes trees roses
plants chairs tables lamps cups plates spoons forks bottles bags boxes shirts shoes socks coats gloves rings stamps
maps cards games dolls toys balls kites drums guitars flutes pianos songs photos paintings letters notebooks pencils
brushes keys doors windows rooms houses gardens boats ships planes trains trucks wagons wheels engines tools hammers
nails ropes tents blankets pillows cushions towels mirrors clocks watches phones radios cameras screens tickets lemons
melons carrots onions eggs cakes cookies brothers sisters cousins uncles aunts friends sons daughters children students
teachers neighbors marbles magnets candles
"""
REAL = tuple(_REAL.split())
_ONSETS = "b c d f g h j k l m n p r s t v w z bl br ch cl cr dr fl fr gl gr pl pr sh sk sl sp st str th tr y qu"
_VOWELS = "a e i o u a e i o u ai ea ee oa oo ou"
_CODAS = " n r s t l m d k p nd nt st x ng sh ck"
ONSETS, VOWELS = _ONSETS.split(), _VOWELS.split()
CODAS = ["", "", "", *_CODAS.split(" ")]  # most syllables are open
LETTERS = "abcdefghijklmnopqrstuvwxyz"
LONGEST = 10


def made_up(rng: random.Random, syllables: int = 4) -> str:
    """A pronounceable word that does not exist, of 2 to 10 letters."""
    count = 1 + int(rng.random() * syllables)
    return "".join(pick(rng, ONSETS) + pick(rng, VOWELS) + pick(rng, CODAS) for _ in range(count))[:LONGEST]


def letters(rng: random.Random) -> str:
    """2 to 10 letters at random."""
    return "".join(pick(rng, LETTERS) for _ in range(2 + int(rng.random() * (LONGEST - 1))))


class Pool:
    """Real ones, of which one in `one_in` is held out. Training also draws made-up ones: any spelling can come."""

    def __init__(self, real: Sequence[str], one_in: int = 4, invented: float = 0.4) -> None:
        self.held_out = [text for text in real if held(text, one_in)]
        self.training = [text for text in real if not held(text, one_in)]
        self._kept = frozenset(self.held_out)
        self._invented = invented
        self._capital = real[0][0].isupper()
        self._firsts = [text.split()[0] for text in self.training if " " in text]

    def draw(self, rng: random.Random, held_out: bool) -> str:
        """One of them."""
        if held_out:
            return pick(rng, self.held_out)
        if rng.random() >= self._invented:
            return pick(rng, self.training)
        while (word := self._invent(rng)) in self._kept:
            pass
        return word

    def _invent(self, rng: random.Random) -> str:
        """Of two words where real ones are, now and then; the first may be that of a real one, as in New York."""
        word = made_up(rng, 3).capitalize() if self._capital else made_up(rng, 3)
        if not self._firsts or rng.random() < 0.8:
            return word
        first = pick(rng, self._firsts) if rng.random() < 0.5 else made_up(rng, 2).capitalize()
        return f"{first} {word}"


class Words:
    """Words to work on letter by letter. `common` are those that the model sees whole and has to learn to spell."""

    def __init__(self, common: Collection[str]) -> None:
        self._common = sorted(word for word in common if len(word) > 1)
        self._training = [word for word in REAL if not held(word, 3)]
        self._kept = frozenset(REAL).difference(self._training)
        self.held_out = sorted(self._kept.difference(common))

    def draw(self, rng: random.Random, held_out: bool) -> str:
        """A word of 2 to 10 letters, or a common one of any length, in lower case."""
        if held_out:
            return pick(rng, self.held_out)
        source = rng.random()
        if source < 0.15:
            return pick(rng, self._common)
        if source < 0.4:
            return pick(rng, self._training)
        while (word := made_up(rng) if source < 0.7 else letters(rng)) in self._kept:
            pass
        return word

    def crossed(self, rng: random.Random) -> str:
        """No real word: a start of one and the end of another behind a letter of both.

        Letters follow each other as in real words, so that several of them often share some.
        """
        while True:
            word = pick(rng, self._training)
            for _ in range(1 + int(rng.random() * 2)):
                at, other = int(rng.random() * len(word)), pick(rng, self._training)
                if (found := other.find(word[at], int(rng.random() * len(other)))) >= 0:
                    word = word[:at] + other[found:]
            if 2 <= len(word) <= LONGEST and word not in REAL:
                return word

    def near(self, rng: random.Random, word: str, first: int) -> str:
        """`word` with another letter in place of one of its first ones; never one that is held out."""
        while True:
            at = int(rng.random() * min(first, len(word)))
            other = word[:at] + pick(rng, LETTERS) + word[at + 1 :]
            if other != word and other not in self._kept:
                return other

    def sharing(self, rng: random.Random, word: str) -> str:
        """A beginning of another word and the end of `word`; never one that is held out."""
        while True:
            other = self.draw(rng, False)[: 1 + int(rng.random() * 4)] + word[int(rng.random() * len(word)) :]
            if len(other) <= LONGEST and other not in self._kept:
                return other


PEOPLE = Pool(_NAMES.split())
PLACES = Pool(_CITIES.split() + _LONG_CITIES)
LANDS = Pool(_COUNTRIES.split())
THINGS = Pool(REAL, one_in=3)
GOODS = Pool(_BELONGINGS.split())
