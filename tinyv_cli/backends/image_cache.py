"""Pixels become image tokens, read from disk or computed and kept there.

Encoding a picture takes seconds, its tokens a few hundred kilobytes. They are kept in float32, as
they were computed, so that a second answer about a picture is the first one's to the letter.
"""

import hashlib
import math
import os
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np

from tinyv_cli.answers.generate import ImageEncoder
from tinyv_cli.devices.names import to_kind
from tinyv_cli.disk import places
from tinyv_cli.disk.reading import read_bytes
from tinyv_cli.disk.whole_file import HALF_WRITTEN, write_whole
from tinyv_cli.pictures.image import hash_pixels
from tinyv_cli.variants.manifest import Variant, list_graph_roles

MAX_BYTES = 256 << 20  # some 800 pictures at the published size
_SUFFIX = ".tokens"
_DIGEST_BYTES = 32
_FORMAT = "tinyv image tokens 1"  # another number when files mean something else


class ImageCache:
    """Image tokens on disk by name; the least recently used ones are removed.

    Several processes may use one folder: files are replaced as a whole and carry a checksum; one
    that is missing, damaged or of another shape counts as not kept.

    Args:
        folder: where they lie; made when something is kept.
        max_bytes: of all files together.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Reads tokens, and marks them as used now.

        Args:
            name: 64 hexadecimal digits.
            shape: that they must have.

        Returns:
            float32 of that shape; None where there are none.
        """
        path = self._folder / f"{name}{_SUFFIX}"
        try:
            content = read_bytes(path)
        except OSError:
            return None
        digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            return None
        # Compared instead of parsed: numpy raises almost anything for a header that is not one.
        head = BytesIO()
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(head, header)
        n_head_bytes, n_numbers = len(head.getvalue()), math.prod(shape)
        if not body.startswith(head.getvalue()) or len(body) != n_head_bytes + 4 * n_numbers:
            return None
        tokens = np.frombuffer(body, np.float32, offset=n_head_bytes).reshape(shape).copy()
        with suppress(OSError):
            os.utime(path)
        return tokens

    def write(self, name: str, tokens: np.ndarray) -> None:
        """Keeps tokens, and removes those unused for longest; does nothing if that fails."""
        body = BytesIO()
        np.save(body, np.ascontiguousarray(tokens))
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            content = hashlib.sha256(body.getvalue()).digest() + body.getvalue()
            write_whole(self._folder / f"{name}{_SUFFIX}", content, is_durable=False)
            used: list[tuple[int, int, Path]] = []
            for path in self._folder.iterdir():
                if path.suffix != _SUFFIX and not HALF_WRITTEN.fullmatch(path.name):
                    continue
                with suppress(OSError):  # another process may have removed it
                    state = path.stat()
                    used.append((state.st_mtime_ns, state.st_size, path))
            n_bytes = sum(size for _, size, _ in used)
            for _, size, path in sorted(used):
                if n_bytes <= self._max_bytes:
                    return
                with suppress(OSError):
                    path.unlink()
                n_bytes -= size


class CachedEncoder:
    """Encodes what the cache does not hold.

    Args:
        encoder: computes image tokens.
        cache: keeps them.
        origin: names everything but the pixels that the tokens depend on.
        shape: (Q, D) of one picture's tokens.
    """

    def __init__(
        self, encoder: ImageEncoder, cache: ImageCache, origin: str, shape: tuple[int, int]
    ) -> None:
        self._encoder = encoder
        self._cache = cache
        self._origin = origin
        self._shape = shape

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Returns image tokens (B, Q, D) of pixels (B, 3, S, S), both float32."""
        names = [_make_name(self._origin, each[None]) for each in pixels]
        found = [self._cache.read(name, self._shape) for name in names]
        missing = [i for i, tokens in enumerate(found) if tokens is None]
        if missing:
            computed = self._encoder.encode(np.ascontiguousarray(pixels[missing]))
            for i, tokens in zip(missing, computed, strict=True):
                self._cache.write(names[i], tokens)
                found[i] = tokens
        return np.stack([tokens for tokens in found if tokens is not None])


def wrap_encoder(encoder: ImageEncoder, variant: Variant, device: str) -> CachedEncoder:
    """Wraps an encoder so that it uses the cache of this computer.

    Args:
        encoder: of the variant.
        variant: whose vision files the tokens depend on.
        device: where they are computed; a CPU rounds otherwise than a GPU, and GPUs share theirs.
    """
    cache, origin = ImageCache(places.image_cache_dir()), _make_origin(variant, device)
    return CachedEncoder(encoder, cache, origin, _shape_of(variant))


def has_tokens(variant: Variant, pixels: np.ndarray, device: str) -> bool:
    """Checks whether the cache holds the tokens of a picture's pixels (1, 3, S, S)."""
    name = _make_name(_make_origin(variant, device), pixels)
    return ImageCache(places.image_cache_dir()).read(name, _shape_of(variant)) is not None


def _make_origin(variant: Variant, device: str) -> str:
    """Names everything but the pixels that image tokens depend on."""
    files = variant.manifest.files
    graphs = list_graph_roles("vision", {entry.role for entry in files})
    roles = [*graphs, "vision-data", "cuda-vision"]
    hashes = [entry.sha256 for entry in files if entry.role in roles]
    return " ".join([_FORMAT, to_kind(device), *hashes])


def _make_name(origin: str, pixels: np.ndarray) -> str:
    """Names the tokens of one picture: its pixels hold all that preprocessing did."""
    return hashlib.sha256(f"{origin} {hash_pixels(pixels)}".encode()).hexdigest()


def _shape_of(variant: Variant) -> tuple[int, int]:
    """Returns (Q, D) of one picture's tokens."""
    spec = variant.manifest.spec
    return spec.qformer.n_queries, spec.language.width
