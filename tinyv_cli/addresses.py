"""A URL becomes a text that may be shown and kept: without passwords, tokens or long data."""

import re
import shlex

HIDDEN = "***"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DATA = re.compile(r"data:[^,\s]{0,200},", re.IGNORECASE)
# `http:/host`, `https:\\host` and `name:password@host/…` are meant as URLs, and are none.
_MALFORMED = re.compile(r"https?:|[^\s/\\@:]+:[^\s/\\@]+@[^\s/\\@]+[./]", re.IGNORECASE)
_IN_TEXT = re.compile(
    r"\b(?:[A-Za-z][A-Za-z0-9+.-]*://|https?:[/\\]+|data:[\w.+/-]*[;,])[^\s'\"`<>]+"
)
_N_DIGITS = 12
_LASTING_END = re.compile(rf"[#;]sha256-[0-9a-f]{{{_N_DIGITS}}}$")


def is_address(word: str) -> bool:
    """Returns whether a word is a URL of any scheme, rather than a path."""
    return _SCHEME.match(word) is not None or is_data_url(word)


def is_data_url(word: str) -> bool:
    """Returns whether a word is a URL that holds its content itself.

    Source: RFC 2397.
    """
    return _DATA.match(word) is not None


def is_malformed(word: str) -> bool:
    """Returns whether a word was meant as a URL and is none, as `http:/host/cat.png`."""
    return not is_address(word) and _MALFORMED.match(word) is not None


def to_shown(address: str) -> str:
    """Returns a URL for messages: name, password and the values of its query are hidden.

    Of a `data:` URL the type is left, and a hash that tells it from others. A word that is no URL
    is returned as it is, unless it seems to hold a name and a password.
    """
    if is_data_url(address):
        kind = re.match(r"data:[\w.+/-]{0,60}", address, re.IGNORECASE)
        return f"{kind[0] if kind else 'data:'};sha256-{_hash(address)}"
    if not is_address(address) and not is_malformed(address):
        return address
    start, rest = _split_user(address)
    found = re.fullmatch(r"([^?#]*)(?:\?([^#]*))?(?:#(.*))?", rest, re.DOTALL)
    assert found is not None  # each part may be empty
    place, query, fragment = found.groups()
    shown = start + place
    if query is not None:
        shown += "?" + re.sub(r"(?:^|(?<=[&;]))([^=&;]*=)?[^&;]+", rf"\1{HIDDEN}", query)
    if fragment is not None:
        shown += f"#{fragment if fragment.isdecimal() else HIDDEN}"
    return shown


def quote_whole(address: str) -> str:
    """Returns a URL for a command to be pasted; `URL` where a part of it is hidden."""
    return shlex.quote(address) if to_shown(address) == address else "URL"


def to_lasting_name(address: str) -> str:
    """Returns what a file may keep of a URL: as shown, and apart from others shown alike.

    The hash at its end is of all but name and password, which are often short enough to be guessed
    from one.
    """
    shown = to_shown(address)
    if shown == address or is_data_url(address):
        return shown
    start, rest = _split_user(address)
    return f"{shown.partition('#')[0]}#sha256-{_hash(start + rest)}"


def is_incomplete(name: str) -> bool:
    """Returns whether a name is one of `to_lasting_name` that cannot be opened any more."""
    return _LASTING_END.search(name) is not None


def hide_secrets(text: str) -> str:
    """Returns a text in which every URL is as `to_shown` returns it."""
    return _IN_TEXT.sub(lambda found: to_shown(found[0]), text)


def _split_user(address: str) -> tuple[str, str]:
    """Splits a URL behind its name and password, which are replaced by `HIDDEN`."""
    found = _SCHEME.match(address) or re.match(r"https?:[/\\]*", address, re.IGNORECASE)
    start = found[0] if found else ""
    rest = address[len(start) :]
    authority = re.split(r"[/\\?#]", rest, maxsplit=1)[0]
    # Where the port is no number, a password with `/` or `#` in it was cut there.
    is_cut = re.search(r":(?!\d+$)", authority.rpartition("]")[2]) is not None
    user, at, _ = (rest if is_cut else authority).rpartition("@")
    return (f"{start}{HIDDEN}@", rest[len(user) + 1 :]) if at else (start, rest)


def _hash(text: str) -> str:
    """Returns the first digits of a text's SHA-256."""
    import hashlib  # most commands name no URL, and its library takes time to load

    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_N_DIGITS]
