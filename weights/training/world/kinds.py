"""Lists the 64 kinds of objects: English names and the character that a font draws.

Chosen from a sheet of 247 characters so that no two look alike at 112 px and no name covers another
kind: there is a boat and no ship, a bear and no panda, a tree and no palm. Names that are colours,
pairs or masses (orange, scissors, cheese) are left out too.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectKind:
    """One kind of object.

    Attributes:
        name: one object, without an article.
        plural: several.
        character: drawn by the font, without a variation selector.
        lost_on: backgrounds that it never stands on: less than half of its rim or its whole is
            further than 22 from them in L*a*b*.
        is_tinted: drawn in each of `OBJECT_COLOURS` rather than in the font's colours.
    """

    name: str
    plural: str
    character: str
    lost_on: tuple[str, ...] = ()
    is_tinted: bool = False

    @property
    def article(self) -> str:
        """Returns the indefinite article of the bare name."""
        return "an" if self.name[0] in "aeiou" else "a"


def _kind(name: str, character: str, lost_on: str = "", plural: str = "") -> ObjectKind:
    return ObjectKind(name, plural or f"{name}s", character, tuple(lost_on.split()))


def _tinted(name: str, character: str) -> ObjectKind:
    return ObjectKind(name, f"{name}s", character, is_tinted=True)


KINDS: tuple[ObjectKind, ...] = (
    # animals
    _kind("cat", "🐱", "yellow"),
    _kind("dog", "🐶"),
    _kind("rabbit", "🐰", "white gray"),
    _kind("bear", "🐻", "brown"),
    _kind("lion", "🦁", "brown yellow"),
    _kind("frog", "🐸", "green"),
    _kind("pig", "🐷", "pink"),
    _kind("cow", "🐄"),
    _kind("horse", "🐎", "brown"),
    _kind("elephant", "🐘", "white gray"),
    _kind("owl", "🦉", "brown"),
    _kind("penguin", "🐧", "black"),
    _kind("duck", "🦆"),
    _kind("fish", "🐟", "blue", plural="fish"),
    _kind("octopus", "🐙", "red", plural="octopuses"),
    _kind("crab", "🦀", "red"),
    _kind("butterfly", "🦋", plural="butterflies"),
    _kind("turtle", "🐢", "yellow green"),
    _kind("zebra", "🦓", "black"),
    # food
    _kind("apple", "🍎", "red"),
    _kind("banana", "🍌", "yellow"),
    _kind("strawberry", "🍓", "red", plural="strawberries"),
    _kind("pineapple", "🍍"),
    _kind("carrot", "🥕"),
    _kind("pear", "🍐", "green"),
    _kind("mushroom", "🍄"),
    _kind("pizza", "🍕"),
    _kind("hamburger", "🍔"),
    _kind("cake", "🎂"),
    _kind("donut", "🍩", "brown"),
    # vehicles
    _tinted("car", "🚗"),
    _kind("bus", "🚌", plural="buses"),
    _kind("truck", "🚚"),
    _kind("tractor", "🚜"),
    _kind("bicycle", "🚲", "gray"),
    _kind("train", "🚂"),
    _kind("airplane", "✈", "blue"),
    _kind("rocket", "🚀"),
    _kind("boat", "⛵"),
    # buildings
    _kind("house", "🏠"),
    _kind("castle", "🏰", "gray"),
    _kind("tent", "⛺"),
    # tools and things
    _kind("hammer", "🔨", "brown"),
    _kind("key", "🔑", "yellow"),
    _kind("chair", "🪑"),
    _kind("clock", "⏰", "red"),
    _kind("bell", "🔔", "yellow"),
    _kind("camera", "📷", "gray"),
    _kind("guitar", "🎸", "red"),
    _kind("crown", "👑", "yellow"),
    _tinted("book", "📕"),
    _tinted("shirt", "👕"),
    _tinted("balloon", "🎈"),
    _tinted("umbrella", "☂"),
    _tinted("heart", "❤"),
    _tinted("backpack", "🎒"),
    _tinted("bucket", "🪣"),
    # sky, weather and plants
    _kind("sun", "☀", "yellow"),
    _kind("moon", "🌙", "yellow"),
    _kind("cloud", "☁", "white"),
    _kind("rainbow", "🌈"),
    _kind("snowman", "⛄", "white", plural="snowmen"),
    _kind("tree", "🌳", "green"),
    _kind("cactus", "🌵", "green", plural="cactuses"),
)

KIND_OF_NAME: dict[str, ObjectKind] = {kind.name: kind for kind in KINDS}
