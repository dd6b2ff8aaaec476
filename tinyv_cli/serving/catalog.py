"""The variants on this computer become models by name; a name from outside is never a path."""

import hashlib
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from tinyv_cli.disk.places import variants_dir
from tinyv_cli.engine import FoundVariant, find_variant
from tinyv_cli.errors import TinyvError
from tinyv_cli.prompts.prompt import TEMPLATES
from tinyv_cli.serving.dialects.asking import RefusedError
from tinyv_cli.spec import ModelSpec
from tinyv_cli.variants.home import list_named_variants
from tinyv_cli.variants.manifest import MANIFEST_NAME, Variant

_FRESH_S = 1.0  # for which nothing is looked at; reading the manifests takes some 30 ms
_LATEST = ":latest"  # the tag that Ollama's clients put behind names


@dataclass(frozen=True)
class Model:
    """A variant under the name that requests use.

    Attributes:
        found: the variant and its template.
        digest: 64 hexadecimal digits; a variant made anew has another.
        modified: when it was made.
        context_length: positions of a prompt and its answer.
        stamp: another one when its files were changed.
    """

    found: FoundVariant
    digest: str
    modified: datetime
    context_length: int
    stamp: tuple[object, ...]

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.found.variant.name

    @property
    def created_s(self) -> int:
        """When it was made, in seconds since 1970."""
        return int(self.modified.timestamp())

    @property
    def tag(self) -> str:
        """The name as Ollama's clients write it."""
        return self.name + _LATEST

    def describe(self) -> dict[str, Any]:
        """Describes it as Ollama's lists do."""
        manifest = self.found.variant.manifest
        quantization = "F32" if manifest.bits == 32 else f"Q{manifest.bits}"
        count = _count_parameters(manifest.spec)
        return {
            "name": self.tag,
            "model": self.tag,
            "modified_at": self.modified.isoformat(timespec="seconds"),
            "size": manifest.size_bytes,
            "digest": self.digest,
            "details": {
                "parent_model": "",
                "format": "tinyv",
                "family": "tinygptv",
                "families": ["tinygptv"],
                "parameter_size": f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M",
                "quantization_level": quantization,
            },
        }


class Catalog:
    """All models that requests can name.

    Args:
        default: the name or folder that the server was started with; None for the newest variant.
        context_length: positions to which conversations are limited; None for the model's own.

    Attributes:
        default_name: of the model that answers where a request names none.

    Raises:
        WeightsError: the default cannot be read.
    """

    def __init__(self, default: str | None, context_length: int | None) -> None:
        self._context_length = context_length
        self._default = find_variant(default)
        listed = _find_listed(self._default.variant)
        self._is_listed = listed is not None
        self.default_name = listed or self._default.variant.name
        self._lock = threading.Lock()
        self._looked_s = -_FRESH_S
        self._state: object = None
        self._models: list[Model] = []

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the default."""
        return self._default.notes

    def list_models(self) -> list[Model]:
        """Lists the models that can be read, the default first."""
        with self._lock:
            if monotonic() - self._looked_s >= _FRESH_S:
                state = self._look()
                if state != self._state:
                    self._models = self._read()
                    self._state = self._look()
                self._looked_s = monotonic()
            return self._models

    def find(self, name: str | None) -> Model:
        """Finds a model by its name, with or without `:latest`; None is the default.

        Raises:
            RefusedError: there is none, or no longer.
        """
        wanted = self.default_name if name is None else name.strip()
        short = wanted.removesuffix(_LATEST)
        for each in self.list_models():
            if each.name in (wanted, short):
                return each
        if short == self.default_name:
            problem = f"the files of model '{short}' are gone or cannot be read"
            raise RefusedError(503, problem, None, 30)
        raise RefusedError(404, f"model '{wanted[:100]}' not found", "model_not_found")

    def _look(self) -> object:
        """Returns what changes with the variants' folders and the files of those known."""
        folders = []
        with suppress(OSError):
            folders = sorted(variants_dir().iterdir())
        manifests = [(each.name, _read_state(each / MANIFEST_NAME)) for each in folders]
        return manifests, [_read_states(each.found.variant) for each in self._models]

    def _read(self) -> list[Model]:
        folder = self._default.variant.folder
        found: list[FoundVariant] = []
        with suppress(TinyvError):  # whoever asks for one that cannot be read is told so
            for each in list_named_variants():
                if isinstance(each, Variant) and each.manifest.template in TEMPLATES:
                    found.append(FoundVariant(each, TEMPLATES[each.manifest.template]))
        with suppress(TinyvError):
            if not self._is_listed:
                found.append(find_variant(str(folder)))
        found.sort(key=lambda each: each.variant.folder != folder)
        return [self._to_model(each) for each in found]

    def _to_model(self, found: FoundVariant) -> Model:
        manifest = found.variant.manifest
        states = _read_states(found.variant)
        _, made_ns, _ = states[0]
        longest = manifest.spec.language.context_length
        digest = hashlib.sha256(manifest.to_json().encode()).hexdigest()
        return Model(
            found,
            digest,
            datetime.fromtimestamp(made_ns / 1e9, UTC),
            min(longest, self._context_length or longest),
            (digest, *states),
        )


def _read_states(variant: Variant) -> list[tuple[int, int, int]]:
    """Reads the states of a variant's manifest and of its files."""
    names = [MANIFEST_NAME, *(each.path for each in variant.manifest.files)]
    return [_read_state(variant.folder / name) for name in names]


def _read_state(path: Path) -> tuple[int, int, int]:
    """Reads size, time and number of a file; zeros where it is being replaced."""
    try:
        state = path.stat()
    except OSError:
        return 0, 0, 0
    return state.st_size, state.st_mtime_ns, state.st_ino


def _find_listed(variant: Variant) -> str | None:
    """Returns the name that a variant's folder has among those that have one."""
    listed = [each for each in list_named_variants() if each.folder.exists()]
    return next((each.name for each in listed if variant.folder.samefile(each.folder)), None)


def _count_parameters(spec: ModelSpec) -> int:
    """Counts the weights of the matrices, roughly: four of attention and two of the MLP a layer."""
    language = spec.language
    parts = (spec.vision, spec.qformer, language)
    layers = sum(
        each.n_layers * each.width * (4 * each.width + 2 * each.mlp_width) for each in parts
    )
    return layers + 2 * language.vocab_size * language.width
