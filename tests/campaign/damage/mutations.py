"""Bytes and JSON become damaged ones: flipped, cut, doubled, moved, with numbers out of range."""

import copy
import json
import re
import struct

_NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0x3FFF, 0x4000, 0x7FFF, 0x8000, 0xFFFF, 0x10000,
            0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)  # fmt: skip
_DIGITS = re.compile(rb"\d+")
_WRITTEN = (b"0", b"-1", b"1", b"65535", b"65536", b"16000", b"2147483647", b"2147483648",
            b"4294967296", b"9" * 40, b"1e400", b"nan")  # fmt: skip

# What stands in for a value of JSON.
ODD_VALUES = (
    *(0, 1, -1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, 10**30, 10**400),
    *(0.5, -0.0, 1e-300, 1e308, float("inf"), float("nan"), True, False, None, [], {}),
    *("", ".", ".."),
    *("../outside", "/etc/passwd", "a/../../b", "C:\\x", "a\0b", "\ud800", "x" * 300),
    "manifest.json",
    *(["x"], {"x": 1}, "é" * 9, "0" * 64, "[[" * 500),
)  # fmt: skip


def mutate(content, chance, others=()):
    """Damages bytes in one to four ways.

    Args:
        content: sound bytes.
        chance: dice.
        others: contents that a part may be taken from.
    """
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        chance.choice(_WAYS)(damaged, chance, others)
    return bytes(damaged)


def _pick(damaged, chance, n_bytes=1):
    """Picks a place: half of all at the beginning, where formats say what they hold."""
    end = max(1, len(damaged) - n_bytes + 1)
    return chance.randrange(min(end, 160) if chance.random() < 0.5 else end)


def _pick_run(damaged, chance):
    start = _pick(damaged, chance)
    most = chance.choice((4, 16, 64, 512, len(damaged)))
    return slice(start, start + 1 + chance.randrange(max(1, most)))


def _flip(damaged, chance, _):
    if damaged:
        damaged[_pick(damaged, chance)] ^= 1 << chance.randrange(8)


def _set_byte(damaged, chance, _):
    if damaged:
        damaged[_pick(damaged, chance)] = chance.choice(
            (0, 1, 127, 128, 255, chance.randrange(256))
        )


def _set_number(damaged, chance, _):
    letter, n_bytes = chance.choice((("H", 2), ("I", 4), ("I", 4)))
    order = chance.choice("<>")
    if len(damaged) < n_bytes:
        return
    place = _pick(damaged, chance, n_bytes)
    most = 256**n_bytes - 1
    (present,) = struct.unpack_from(order + letter, damaged, place)
    near = (present + chance.choice((-1, 1)), present * 2, present // 2, 1 << chance.randrange(32))
    number = chance.choice((*_NUMBERS, *near)) & most
    struct.pack_into(order + letter, damaged, place, number)


def _set_size(damaged, chance, _):
    """Writes two numbers side by side, as width and height are."""
    letter, n_bytes = chance.choice((("H", 2), ("I", 4)))
    if len(damaged) >= 2 * n_bytes:
        sides = chance.choice(
            ((16000, 8000), (65535, 2), (2, 65535), (1, 1), (0, 9), (12000, 11000))
        )
        place = min(_pick(damaged, chance, 2 * n_bytes), 600)
        struct.pack_into(chance.choice("<>") + 2 * letter, damaged, place, *sides)


def _write_number(damaged, chance, _):
    """Exchanges a number that is written in digits."""
    found = list(_DIGITS.finditer(damaged[:4096]))
    if found:
        damaged[slice(*chance.choice(found).span())] = chance.choice(_WRITTEN)


def _delete(damaged, chance, _):
    del damaged[_pick_run(damaged, chance)]


def _double(damaged, chance, _):
    run = _pick_run(damaged, chance)
    damaged[run.start : run.start] = damaged[run] * chance.choice((1, 1, 2, 30))


def _move(damaged, chance, _):
    run = _pick_run(damaged, chance)
    moved = damaged[run]
    del damaged[run]
    place = _pick(damaged, chance)
    damaged[place:place] = moved


def _fill(damaged, chance, _):
    run = _pick_run(damaged, chance)
    damaged[run] = bytes([chance.choice((0, 255, 32, chance.randrange(256)))]) * len(damaged[run])


def _scramble(damaged, chance, _):
    run = _pick_run(damaged, chance)
    damaged[run] = chance.randbytes(len(damaged[run]))


def _cut(damaged, chance, _):
    del damaged[_pick(damaged, chance) :]


def _splice(damaged, chance, others):
    if others:
        other = chance.choice(others)
        place = chance.randrange(max(1, len(other)))
        damaged[_pick(damaged, chance) :] = other[place:]


_WAYS = (
    *(_flip, _flip, _flip, _set_byte, _set_byte, _set_number, _set_number, _set_number, _set_size),
    *(_write_number, _delete, _double, _move, _fill, _scramble, _cut, _splice),
)


def mutate_json(content, chance):
    """Damages a JSON document in one to three places of its structure, sometimes in its text.

    Args:
        content: its bytes, UTF-8.
        chance: dice.
    """
    value = json.loads(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = list(_list_places(value))
        if not places:
            break
        inside, key = chance.choice(places)
        way = chance.randrange(6)
        if way <= 2:
            inside[key] = copy.deepcopy(chance.choice(ODD_VALUES))
        elif way == 3:
            del inside[key]
        elif way == 4:
            other, name = chance.choice(places)
            inside[key] = copy.deepcopy(other[name])
        elif isinstance(inside, list):
            inside.insert(key, copy.deepcopy(inside[key]))
        else:
            inside[chance.choice((key + "x", "", "..", "__class__"))] = inside.pop(key)
    text = json.dumps(value, ensure_ascii=True).encode()
    if chance.random() < 0.15:
        text = mutate(text, chance, (b"[" * 5000, content))
    return text


def _list_places(value):
    """Yields every place of a document, as a container and a key in it."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield value, key
        yield from _list_places(value[key])
