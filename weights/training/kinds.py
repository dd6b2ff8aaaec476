"""A kind of thing becomes its English names and its sign; knows no font and no place.

Chosen so that no two look alike at 112 px and no name covers another kind: there is a boat and no
ship, a bear and no panda, a tree and no palm.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of thing.

    Attributes:
        name: one object, without an article.
        plural: several.
        sign: the character that the font draws, without a variation selector.
        lost_on: backgrounds that it is hardly seen on; it never stands on them.
        is_tinted: drawn in each of `OBJECT_COLOURS` rather than in the font's colours.
    """

    name: str
    plural: str
    sign: str
    lost_on: tuple[str, ...] = ()
    is_tinted: bool = False

    @property
    def article(self) -> str:
        """The indefinite article of the bare name."""
        return "an" if self.name[0] in "aeiou" else "a"


def _kind(name: str, sign: str, lost_on: str = "", plural: str = "") -> Kind:
    return Kind(name, plural or f"{name}s", sign, tuple(lost_on.split()))


def _tinted(name: str, sign: str) -> Kind:
    return Kind(name, f"{name}s", sign, is_tinted=True)


KINDS: tuple[Kind, ...] = (
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

KIND_OF_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
