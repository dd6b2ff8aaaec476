"""Lists the English sentences of each question, many for each; data only.

A group has phrasings that every split uses and phrasings kept for testing. The latter hold only
words of other phrasings (`tests/light/training/test_questions_phrasings.py`), and each needs kin
among the former (DESIGN.md). Names in braces are filled by `questions.py`: `a` and `b` are
references to one object ("red car"), `thing` has its article ("a red car"), `things` is a plural,
`more` and `relation` come from the tables below.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrasings:
    """The ways of asking one thing.

    Attributes:
        usual: for every split.
        held_out: for testing only.
    """

    usual: tuple[str, ...]
    held_out: tuple[str, ...]


PHRASINGS: dict[str, Phrasings] = {
    "what": Phrasings(
        (
            "what is this?",
            "what is in the picture?",
            "what do you see?",
            "what is shown here?",
            "what can you see in this image?",
            "what is in this picture?",
            "which object is this?",
            "what object is in the picture?",
            "name the object.",
            "tell me what this is.",
            "what does the picture show?",
        ),
        ("what is shown in this image?", "which object do you see here?", "name what you see."),
    ),
    "what several": Phrasings(
        (
            "what are these?",
            "what are the objects in the picture?",
            "which objects are these?",
            "what are these objects?",
            "tell me what these are.",
            "what objects are in this image?",
            "which objects are shown?",
            "what objects can you see?",
            "name the objects.",
            "what things are these?",
            "which objects are in the picture?",
            "what objects are shown in the picture?",
            "what are the things in this picture?",
        ),
        (
            "what are the objects here?",
            "which objects do you see?",
            "what objects does the picture show?",
            "tell me which objects these are.",
        ),
    ),
    "what else": Phrasings(
        (
            "what else is there besides the {a}?",
            "what is there besides the {a}?",
            "apart from the {a}, what do you see?",
            "what is the other object, besides the {a}?",
            "there is a {a}; what else is in the picture?",
        ),
        ("apart from the {a}, what else is there?", "what else do you see besides the {a}?"),
    ),
    "colour of background": Phrasings(
        (
            "what colour is the background?",
            "what color is the background?",
            "which colour does the background have?",
            "what is the colour of the background?",
            "what is the background's color?",
            "on what colour of background is this?",
        ),
        ("which color is the background?", "what color does the background have?"),
    ),
    "colour of object": Phrasings(
        (
            "what colour is the {a}?",
            "what color is the {a}?",
            "which colour does the {a} have?",
            "what is the colour of the {a}?",
            "which color is the {a}?",
            "tell me the color of the {a}.",
        ),
        ("what is the color of the {a}?", "tell me which colour the {a} is."),
    ),
    "colour of objects": Phrasings(
        (
            "what colour are the {things}?",
            "what color are the {things}?",
            "which colour do the {things} have?",
        ),
        ("which color are the {things}?",),
    ),
    "count": Phrasings(
        (
            "how many {things} are there?",
            "how many {things} do you see?",
            "how many {things} are in the picture?",
            "how many {things} can you see?",
            "count the {things}.",
            "what is the number of {things}?",
            "how many {things}?",
        ),
        ("how many {things} are in this image?", "tell me how many {things} there are."),
    ),
    "exists": Phrasings(
        (
            "is there {thing}?",
            "is there {thing} in the picture?",
            "is there {thing} in this image?",
            "do you see {thing}?",
            "can you see {thing}?",
            "does the picture show {thing}?",
            "is {thing} in the picture?",
            "are there any {things}?",
        ),
        ("can you see {thing} in this picture?", "do you see any {things}?"),
    ),
    "which": Phrasings(
        (
            "which is {more}, the {a} or the {b}?",
            "what is {more}, the {a} or the {b}?",
            "which one is {more}: the {a} or the {b}?",
            "the {a} or the {b}: which is {more}?",
            "is the {a} or the {b} {more}?",
        ),
        ("which object is {more}, the {a} or the {b}?", "the {a} or the {b}, what is {more}?"),
    ),
    "which of all": Phrasings(
        (
            "which object is {most}?",
            "what is {most}?",
            "which one is {most}?",
            "which of the objects is {most}?",
        ),
        ("what object is {most}?", "tell me which object is {most}."),
    ),
    "is related": Phrasings(
        (
            "is the {a} {relation} the {b}?",
            "do you see the {a} {relation} the {b}?",
            "in the picture, is the {a} {relation} the {b}?",
        ),
        ("in this image, is the {a} {relation} the {b}?",),
    ),
    "what is related": Phrasings(
        (
            "what is {relation} the {a}?",
            "which object is {relation} the {a}?",
            "what do you see {relation} the {a}?",
            "what object is {relation} the {a}?",
        ),
        ("what can you see {relation} the {a}?", "tell me what is {relation} the {a}."),
    ),
    "caption": Phrasings(
        (
            "describe this image.",
            "describe the picture.",
            "describe this picture briefly.",
            "write a caption.",
            "write a caption for this image.",
            "give a short description of the picture.",
            "briefly describe what you see.",
            "please describe the image.",
        ),
        ("give a caption for the picture.", "please write a short description of this image."),
    ),
    "refer": Phrasings(
        (
            "the {a}",
            "{a}",
            "where is the {a}?",
            "find the {a}.",
            "give me the location of the {a}.",
            "tell me where the {a} is.",
            "from this image, tell me the location of the {a}.",
            "show me the {a}.",
        ),
        ("tell me the location of the {a}.", "give me the {a}.", "show me where the {a} is."),
    ),
    "identify": Phrasings(
        (
            "{box}",
            "what is this {box}",
            "what is at {box}?",
            "what object is in this location {box}",
            "identify the object {box}",
            "what do you see at {box}?",
            "which object is at {box}?",
        ),
        ("identify what is at {box}", "which object is in this location {box}"),
    ),
    "detection": Phrasings(
        (
            "{a}",
            "{things}",
            "find all {things}.",
            "where are the {things}?",
            "show me all {things}.",
            "detect the {things}.",
            "detect all {things} in the picture.",
        ),
        ("find the {things} in this image.", "detect {things}."),
    ),
    "grounding": Phrasings(
        (
            "describe this image.",
            "describe this image in detail.",
            "describe the picture with boxes.",
            "describe this image and show where the objects are.",
            "give a description with the location of all objects.",
            "please describe the image in detail.",
        ),
        ("describe the picture in detail.", "please describe this image with boxes."),
    ),
    "it: colour": Phrasings(
        ("what colour is it?", "what color is it?", "and its colour?", "which color does it have?"),
        ("which colour is it?",),
    ),
    "it: where": Phrasings(
        ("where is it?", "tell me where it is.", "give me its location.", "show me where it is."),
        ("tell me its location.",),
    ),
    "it: background": Phrasings(
        ("and the background?", "what colour is behind it?", "and what color is the background?"),
        ("and which colour is the background?",),
    ),
    "them: count": Phrasings(
        ("how many are there?", "how many?", "how many of them do you see?", "count them."),
        ("how many of them are there?",),
    ),
}

# Words for a comparison: of two ("which is …"), of all ("which object is …").
COMPARATIVES: dict[str, tuple[str, ...]] = {
    "left": ("further left", "more to the left"),
    "right": ("further right", "more to the right"),
    "above": ("higher", "further up"),
    "below": ("lower", "further down"),
    "larger": ("larger", "bigger"),
    "smaller": ("smaller",),
}
SUPERLATIVES: dict[str, tuple[str, ...]] = {
    "left": ("furthest left", "on the far left"),
    "right": ("furthest right", "on the far right"),
    "above": ("the highest", "at the very top"),
    "below": ("the lowest", "at the very bottom"),
    "larger": ("the largest", "the biggest"),
    "smaller": ("the smallest",),
}
RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below",),
    "larger": ("larger than", "bigger than"),
    "smaller": ("smaller than",),
    "behind": ("behind",),
    "in front": ("in front of",),
}
# One of several of its kind, told by its place or size: of two, of more.
POSITIONS_OF_TWO: dict[str, tuple[str, ...]] = {
    "left": ("left {name}", "{name} on the left"),
    "right": ("right {name}", "{name} on the right"),
    "above": ("upper {name}", "higher {name}"),
    "below": ("lower {name}",),
    "larger": ("larger {name}", "bigger {name}"),
    "smaller": ("smaller {name}",),
}
POSITIONS_OF_MORE: dict[str, tuple[str, ...]] = {
    "left": ("leftmost {name}", "{name} on the far left"),
    "right": ("rightmost {name}", "{name} on the far right"),
    "above": ("highest {name}",),
    "below": ("lowest {name}",),
    "larger": ("largest {name}", "biggest {name}"),
    "smaller": ("smallest {name}",),
}
