"""VQA accuracy: an answer is compared with those of ten people, both brought to one spelling.

Source: Antol et al., "VQA: Visual Question Answering" (2015), and the script published with it.
"""

import re
from collections.abc import Sequence

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_MOST_FULL_STOPS = 32  # a flag that the script passes in place of a count
_DIGITS = {"none": "0", "zero": "0"} | {
    word: str(i)
    for i, word in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 1
    )
}
_ARTICLES = frozenset({"a", "an", "the"})

# The script's table of words whose apostrophe is put back. Each is found under every spelling that
# lacks one of its apostrophes. Entries with a capital are left out: all is in lower case before.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't
    mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've
    should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
    what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's
    who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd
    you'd've you'll you're you've
"""
_SPELLED = {"somebody'd": "somebodyd"} | {
    word[:i] + word[i + 1 :]: word
    for word in _CONTRACTIONS.split()
    for i, letter in enumerate(word)
    if letter == "'"
}


def compute_vqa_accuracy(
    answer: str, references: Sequence[str], *, spares_unanimous: bool
) -> float:
    """Scores an answer: for each reference, a third for each of the others that it equals.

    Args:
        answer: in any spelling.
        references: of several people, mostly ten.
        spares_unanimous: whether nothing but case is ignored where all references are the same, as
            in the original script.

    Returns:
        The mean over the references, 0 to 1.
    """
    tidy = [_tidy(each) for each in (answer, *references)]
    is_spared = spares_unanimous and len(set(tidy[1:])) == 1
    answer, *references = map(str.lower, tidy) if is_spared else map(normalise, tidy)
    return share_of_three([each == answer for each in references])


def share_of_three(matches: Sequence[bool]) -> float:
    """Gives for each reference a third for each of the others that match, one at most.

    Returns:
        The mean over the references, 0 to 1; computed in whole numbers, so that 0.9 is 0.9.
    """
    n_matches = sum(matches)
    thirds = sum(min(n_matches - each, 3) for each in matches)
    return thirds / (3 * len(matches))


def normalise(text: str) -> str:
    """Brings a text to the spelling in which answers are compared.

    Each sign goes where the text has it beside a blank, or has a comma between digits; else it
    becomes a blank.
    """
    has_number = bool(_COMMA_IN_NUMBER.search(text))
    spelled = text
    for sign in _PUNCTUATION:
        goes = has_number or f"{sign} " in text or f" {sign}" in text
        spelled = spelled.replace(sign, "" if goes else " ")
    spelled = _FULL_STOP.sub("", spelled, count=_MOST_FULL_STOPS)
    words = (_DIGITS.get(word, word) for word in spelled.lower().split())
    return " ".join(_SPELLED.get(word, word) for word in words if word not in _ARTICLES)


def normalise_for_lmms_eval(text: str) -> str:
    """Brings a text to the spelling of lmms-eval, which begins with steps of its own."""
    lowered = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalise(_tidy(lowered))


def _tidy(text: str) -> str:
    """Makes blanks of line breaks and tabs, and takes them off both ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()
