"""A `data:` URL becomes the bytes that it holds, within a limit; decodes no picture."""

import binascii
import re
from urllib.parse import unquote_to_bytes

from tinyv_cli.addresses import to_shown
from tinyv_cli.errors import InputError

MAX_BYTES = 64 << 20  # as of what is fetched

_WAY_OUT = "write it to a file and name that: `base64 -d picture.txt > picture.png`"


def read_data_url(url: str) -> bytes:
    """Decodes the content of a `data:` URL: in base64, also of URLs and unpadded, or percent signs.

    Args:
        url: `data:image/png;base64,…` or `data:image/svg+xml,…`.

    Raises:
        InputError: it holds nothing, more than `MAX_BYTES`, or is not in base64 as it says.

    Source: RFC 2397; RFC 4648, sections 4 and 5.
    """
    head, _, data = url.partition(",")
    name = to_shown(url)
    if len(data) > 4 * MAX_BYTES:  # a byte takes three letters at most, and some may be line breaks
        raise _make_size_error(name)
    content = unquote_to_bytes(data)
    if re.search(r";\s*base64\s*$", head, re.IGNORECASE):
        letters = b"".join(content.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
        try:
            content = binascii.a2b_base64(letters + b"=" * (-len(letters) % 4), strict_mode=True)
        except binascii.Error as error:
            raise InputError(
                f"{name} is not base64, as it says: {str(error).lower()}", _WAY_OUT
            ) from error
    if not content:
        raise InputError(f"{name} is empty", _WAY_OUT)
    if len(content) > MAX_BYTES:
        raise _make_size_error(name)
    return content


def _make_size_error(name: str) -> InputError:
    """Makes the error of one that holds too much."""
    return InputError(
        f"{name} holds more than {MAX_BYTES >> 20} MiB",
        "make it smaller: `magick PICTURE -resize 2048x2048 small.png`, then name the file",
    )
