"""config.json, architecture.json and a checkpoint's settings become a ModelSpec, and back.

Phi-2's numbers are in its config.json, under transformers' names or those of its first release.
The vision tower's and the Q-Former's are the published ones unless architecture.json differs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tinyv_cli.errors import WeightsError
from tinyv_cli.spec import LanguageSpec, ModelSpec, QFormerSpec, VisionSpec, image_px_of_stage
from weights.reading.sources import SourceFiles, read_json_object

LORA_ALPHA = 16.0
_LARGEST = {"n_layers": 1000, "image_px": 4096}  # others: a million
_VISION_KEYS = {
    "width": "width",
    "n_layers": "layers",
    "n_heads": "heads",
    "mlp_width": "mlp_width",
    "patch_px": "patch_px",
}
_QFORMER_KEYS = {
    "width": "width",
    "n_layers": "layers",
    "n_heads": "heads",
    "mlp_width": "mlp_width",
    "n_queries": "queries",
    "cross_attention_every": "cross_attention_every",
}
_IMAGE_KEYS = ("image_px", "image_size")
_ROPE_KEYS = ("rope_theta", "partial_rotary_factor", "rotary_dim")
_ROPE_PARTS = ("rope_scaling", "rope_parameters")
_DEEPEST = 8  # dicts within dicts; a pickle's may hold themselves
_ALPHA = "lora_alpha"
# What peft may multiply LoRA by instead of alpha / r; false or empty where it does not.
_OTHER_SCALES = ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern")


@dataclass(frozen=True)
class _CheckedNumbers:
    """The values of one JSON object, checked as they are read; `label` names it in messages."""

    label: str
    values: Mapping[str, Any]

    def find(self, *keys: str) -> tuple[str, Any]:
        """Finds the first of the keys that has a value; else returns the first key and None.

        Raises:
            WeightsError: another of them has another value.
        """
        present = [key for key in keys if self.values.get(key) is not None]
        key = next(iter(present), keys[0])
        value = self.values.get(key)
        for other in present[1:]:
            if self.values[other] != value:
                raise self.refuse(f"says {key} is {value!r}, but {other} is {self.values[other]!r}")
        return key, value

    def read_count(self, field: str, *keys: str, default: int | None = None) -> int:
        """Reads a whole number, at least one."""
        key, value = self.find(*keys)
        if value is None and default is not None:
            return default
        if value is None:
            raise self.refuse(f"has no {key}")
        if type(value) is not int or not 1 <= value <= _LARGEST.get(field, 1_000_000):
            raise self.refuse(f"says {key} is {value!r:.40}")
        return value

    def read_real(self, *keys: str, default: float, least: float, most: float) -> float:
        """Reads a number within limits beyond which nobody sets it."""
        key, value = self.find(*keys)
        if value is None:
            return default
        if type(value) not in (int, float) or not least <= value <= most:
            raise self.refuse(f"says {key} is {value!r:.40}")
        return float(value)

    def refuse_others(self, known: set[str]) -> None:
        """Raises a `WeightsError` for keys that are not among those known."""
        unknown = sorted(set(self.values) - known)
        if unknown:
            keys = "an unknown key" if len(unknown) == 1 else f"{len(unknown)} unknown keys"
            raise self.refuse(f"has {keys}: {', '.join(unknown)}")

    def check_divides(self, small: str, part: int, large: str, whole: int) -> None:
        """Raises a `WeightsError` unless a number divides another."""
        if whole % part:
            raise self.refuse(f"says {part} {small} for a {large} of {whole}")

    def refuse(self, complaint: str) -> WeightsError:
        """Makes an error of what is wrong."""
        return WeightsError(
            f"{self.label} {complaint}", "fetch it again: it belongs to the weights beside it"
        )


def make_spec(files: SourceFiles, settings: Mapping[str, Any], projection_width: int) -> ModelSpec:
    """Joins what the files say into the model's numbers.

    Args:
        files: where config.json and architecture.json are.
        settings: `config.model` of the checkpoint; empty where it has none.
        projection_width: rows of the first projection.

    Raises:
        WeightsError: a number is missing or makes no sense, or Phi-2 is of another kind.
    """
    label, sections = "", dict[str, Any]()
    if files.architecture is not None:
        label = files.label(files.architecture)
        sections = read_json_object(files.architecture)
        _CheckedNumbers(label, sections).refuse_others({"vision", "qformer"})
    there = _read_section(label, sections, "vision", {*_VISION_KEYS.values(), *_IMAGE_KEYS})
    in_checkpoint = _CheckedNumbers(f"config.model of {files.label(files.checkpoint)}", settings)
    image_px = image_px_of_stage(files.stage)
    image_px = in_checkpoint.read_count("image_px", "image_size", default=image_px)
    vision = VisionSpec(
        **_read_counts(there, _VISION_KEYS, VisionSpec()),
        image_px=there.read_count("image_px", *_IMAGE_KEYS, default=image_px),
    )
    there.check_divides("heads", vision.n_heads, "width", vision.width)
    if vision.image_px % vision.patch_px:
        raise WeightsError(
            f"a picture of {vision.image_px} pixels cannot be cut into patches of "
            f"{vision.patch_px}",
            "check image_size in the checkpoint's config and in architecture.json",
        )
    there = _read_section(label, sections, "qformer", set(_QFORMER_KEYS.values()))
    qformer = QFormerSpec(**_read_counts(there, _QFORMER_KEYS, QFormerSpec()))
    there.check_divides("heads", qformer.n_heads, "width", qformer.width)
    language = _read_language(files)
    if language.context_length <= qformer.n_queries:
        raise _CheckedNumbers(files.label(files.phi_config), {}).refuse(
            f"has room for {language.context_length} positions, a picture takes {qformer.n_queries}"
        )
    return ModelSpec(
        stage=files.stage,
        vision=vision,
        qformer=qformer,
        projection_width=projection_width,
        language=language,
    )


def make_architecture(spec: ModelSpec) -> dict[str, dict[str, int]]:
    """Makes the content of architecture.json; the picture's size stands in the checkpoint."""
    return {
        "vision": {key: getattr(spec.vision, field) for field, key in _VISION_KEYS.items()},
        "qformer": {key: getattr(spec.qformer, field) for field, key in _QFORMER_KEYS.items()},
    }


def make_phi_json(language: LanguageSpec, dtype: str, layout: str = "fused") -> dict[str, Any]:
    """Makes the content of Phi-2's config.json, under the names of its layout's time.

    Args:
        language: the numbers.
        dtype: of the weights beside it, as `float16`.
        layout: fused, split or msft.
    """
    shared = {
        "vocab_size": language.vocab_size,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "bos_token_id": 1,  # wrong, as in the published file
        "eos_token_id": 2,
    }
    if layout == "msft":
        is_usual = language.mlp_width == 4 * language.width
        return {
            **shared,
            "model_type": "phi-msft",
            "n_positions": language.context_length,
            "n_embd": language.width,
            "n_layer": language.n_layers,
            "n_inner": None if is_usual else language.mlp_width,
            "n_head": language.n_heads,
            "n_head_kv": None,
            "rotary_dim": language.rotary_width,
            "rope_theta": language.rope_base,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": language.eps,
        }
    return {
        **shared,
        "model_type": "phi",
        "hidden_size": language.width,
        "intermediate_size": language.mlp_width,
        "num_hidden_layers": language.n_layers,
        "num_attention_heads": language.n_heads,
        "num_key_value_heads": None,
        "hidden_act": "gelu_new",
        "max_position_embeddings": language.context_length,
        "layer_norm_eps": language.eps,
        "rope_theta": language.rope_base,
        "rope_scaling": None,
        "partial_rotary_factor": language.rotary_width / language.head_width,
        "qk_layernorm": False,
    }


def read_lora_alpha(files: SourceFiles, settings: Mapping[str, Any]) -> float:
    """Reads α of LoRA's scale α / r.

    Args:
        files: names the checkpoint in messages.
        settings: all that the checkpoint holds beside tensors; α may stand anywhere in it.

    Raises:
        WeightsError: it is there and no positive number; it is there twice with two values; or
            LoRA was trained with another scale.
    """
    found = {
        place: value
        for place, key, value in _walk(settings)
        if key in (_ALPHA, *_OTHER_SCALES) and value is not None
    }
    numbers = _CheckedNumbers(files.label(files.checkpoint), found)
    places = [place for place in found if place.endswith(_ALPHA)]
    for place, value in found.items():
        if place in places:
            numbers.read_real(place, default=LORA_ALPHA, least=1e-6, most=1e6)
        elif not isinstance(value, bool | int | dict) or value:
            raise numbers.refuse(
                f"says {place} is {value!r}: only alpha / r is read as LoRA's scale"
            )
    return numbers.read_real(*places or [_ALPHA], default=LORA_ALPHA, least=1e-6, most=1e6)


def _walk(values: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields place, key and value of all that stands in dicts within dicts, a few deep."""
    for key, value in values.items():
        yield f"{above}{key}", key, value
        if isinstance(value, dict) and above.count(".") < _DEEPEST:
            yield from _walk(value, f"{above}{key}.")


def _read_section(
    label: str, sections: Mapping[str, Any], name: str, known: set[str]
) -> _CheckedNumbers:
    """Returns one section of architecture.json; empty where there is none."""
    section = sections.get(name, {})
    if not isinstance(section, dict):
        raise _CheckedNumbers(label, {}).refuse(f"says {name} is {section!r}")
    numbers = _CheckedNumbers(f"{label}: {name}", section)
    numbers.refuse_others(known)
    return numbers


def _read_counts(
    numbers: _CheckedNumbers, keys: Mapping[str, str], published: VisionSpec | QFormerSpec
) -> dict[str, int]:
    """Reads a section's numbers by their fields; the published one where there is none."""
    return {
        field: numbers.read_count(field, key, default=getattr(published, field))
        for field, key in keys.items()
    }


def _read_language(files: SourceFiles) -> LanguageSpec:
    """Reads Phi-2's config.json, under the names of transformers or of its first release."""
    numbers = _CheckedNumbers(files.label(files.phi_config), read_json_object(files.phi_config))
    width = numbers.read_count("width", "hidden_size", "n_embd")
    n_heads = numbers.read_count("n_heads", "num_attention_heads", "n_head")
    numbers.check_divides("heads", n_heads, "width", width)
    _check_kind(numbers, n_heads)
    # Since transformers 5 the rotary numbers stand in a part.
    places = {key: [key, *(f"{part}.{key}" for part in _ROPE_PARTS)] for key in _ROPE_KEYS}
    rope = _CheckedNumbers(
        numbers.label, {place: value for place, _, value in _walk(numbers.values)}
    )
    head_width = width // n_heads
    published = LanguageSpec.rotary_width / LanguageSpec().head_width
    fraction_key, said = rope.find(*places["partial_rotary_factor"])
    fraction = rope.read_real(fraction_key, default=published, least=1e-6, most=1e6)
    by_fraction = int(fraction * head_width)
    rotary_width = rope.read_count("rotary_width", *places["rotary_dim"], default=by_fraction)
    if said is not None and rotary_width != by_fraction:
        raise numbers.refuse(
            f"says rotary_dim is {rotary_width}, but {fraction_key} is {fraction:g} of {head_width}"
        )
    if rotary_width % 2 or not 0 < rotary_width <= head_width:
        raise numbers.refuse(f"rotates {rotary_width} of the {head_width} channels of a head")
    # The first release writes null for an MLP four times as wide as the model.
    mlp_width = 4 * width if "n_embd" in numbers.values else None
    return LanguageSpec(
        width=width,
        n_layers=numbers.read_count("n_layers", "num_hidden_layers", "n_layer"),
        n_heads=n_heads,
        mlp_width=numbers.read_count(
            "mlp_width", "intermediate_size", "n_inner", default=mlp_width
        ),
        vocab_size=numbers.read_count("vocab_size", "vocab_size"),
        context_length=numbers.read_count(
            "context_length", "max_position_embeddings", "n_positions"
        ),
        rotary_width=rotary_width,
        rope_base=rope.read_real(
            *places["rope_theta"], default=LanguageSpec.rope_base, least=1, most=1e12
        ),
        eps=numbers.read_real(
            "layer_norm_eps", "layer_norm_epsilon", default=LanguageSpec.eps, least=1e-20, most=0.1
        ),
    )


def _check_kind(numbers: _CheckedNumbers, n_heads: int) -> None:
    """Refuses variations that Phi-2 does not have and that would change what is computed."""
    kv_heads = numbers.read_count("n_heads", "num_key_value_heads", "n_head_kv", default=n_heads)
    if kv_heads != n_heads:
        raise numbers.refuse(f"says {kv_heads} key heads for {n_heads} heads")
    key, activation = numbers.find("hidden_act", "activation_function")
    if activation not in (None, "gelu_new"):
        raise numbers.refuse(f"says {key} is {activation!r}, not 'gelu_new'")
    if numbers.values.get("tie_word_embeddings"):
        raise numbers.refuse("says tie_word_embeddings is true")
    for key in _ROPE_PARTS:
        rope = numbers.values.get(key)
        kinds = [rope.get("rope_type"), rope.get("type")] if isinstance(rope, dict) else [rope]
        by_layer = isinstance(rope, dict) and any(isinstance(each, dict) for each in rope.values())
        if by_layer or any(kind not in (None, "default") for kind in kinds):
            raise numbers.refuse(f"says {key} is {rope!r}")
