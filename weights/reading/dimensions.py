"""config.json, architecture.json and a checkpoint's settings become a ModelSpec; knows no tensor.

Phi-2's numbers are in its config.json, under transformers' names or those of its first release.
The vision tower's and the Q-Former's are the published ones unless architecture.json differs.
"""

import math
from collections.abc import Mapping
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


@dataclass(frozen=True)
class _CheckedNumbers:
    """Values of one JSON object, checked as they are read; `label` names it in messages."""

    label: str
    values: Mapping[str, Any]

    def find(self, *keys: str) -> tuple[str, Any]:
        """The first of the keys that has a value; else the first key and None."""
        present = (key for key in keys if self.values.get(key) is not None)
        key = next(present, keys[0])
        return key, self.values.get(key)

    def read_count(self, field: str, *keys: str, default: int | None = None) -> int:
        """A whole number, at least one."""
        key, value = self.find(*keys)
        if value is None and default is not None:
            return default
        if value is None:
            raise self.refuse(f"has no {key}")
        if type(value) is not int or not 1 <= value <= _LARGEST.get(field, 1_000_000):
            raise self.refuse(f"says {key} is {value!r}")
        return value

    def read_real(self, *keys: str, default: float) -> float:
        """A finite number above zero."""
        key, value = self.find(*keys)
        if value is None:
            return default
        if type(value) not in (int, float) or not (0 < value < math.inf):
            raise self.refuse(f"says {key} is {value!r}")
        return float(value)

    def refuse(self, complaint: str) -> WeightsError:
        """What is wrong, as an error to be raised."""
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
    vision, qformer = _read_architecture(files)
    image = _CheckedNumbers(f"config.model of {files.label(files.checkpoint)}", settings)
    image_px = image.read_count("image_px", "image_size", default=image_px_of_stage(files.stage))
    return ModelSpec(
        stage=files.stage,
        vision=_make_vision(vision, image_px),
        qformer=_make_qformer(qformer),
        projection_width=projection_width,
        language=_read_language(files),
    )


def make_architecture(spec: ModelSpec) -> dict[str, dict[str, int]]:
    """What architecture.json says of a network; the checkpoint tells the picture's size."""
    return {
        "vision": {key: getattr(spec.vision, field) for field, key in _VISION_KEYS.items()},
        "qformer": {key: getattr(spec.qformer, field) for field, key in _QFORMER_KEYS.items()},
    }


def make_phi_config(language: LanguageSpec, dtype: str, layout: str = "fused") -> dict[str, Any]:
    """What Phi-2's config.json says of a network, under the names of its layout's time.

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
        return {**shared, **_make_msft_config(language)}
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


def _make_msft_config(language: LanguageSpec) -> dict[str, Any]:
    is_usual = language.mlp_width == 4 * language.width
    return {
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


def read_lora_alpha(files: SourceFiles, settings: Mapping[str, Any]) -> float:
    """α of LoRA's scale α / r.

    Args:
        files: names the checkpoint in messages.
        settings: `config.model` of the checkpoint; empty where it has none.

    Raises:
        WeightsError: it is there and no positive number.
    """
    numbers = _CheckedNumbers(f"config.model of {files.label(files.checkpoint)}", settings)
    return numbers.read_real("lora_alpha", default=LORA_ALPHA)


def _read_architecture(files: SourceFiles) -> tuple[_CheckedNumbers, _CheckedNumbers]:
    """The vision and the Q-Former section of architecture.json; both empty without the file."""
    if files.architecture is None:
        return _CheckedNumbers("", {}), _CheckedNumbers("", {})
    label = files.label(files.architecture)
    sections = read_json_object(files.architecture)
    _check_keys(_CheckedNumbers(label, sections), {"vision", "qformer"})
    vision = _read_section(label, sections, "vision")
    qformer = _read_section(label, sections, "qformer")
    _check_keys(vision, {*_VISION_KEYS.values(), *_IMAGE_KEYS})
    _check_keys(qformer, set(_QFORMER_KEYS.values()))
    return vision, qformer


def _read_section(label: str, sections: Mapping[str, Any], name: str) -> _CheckedNumbers:
    section = sections.get(name, {})
    if not isinstance(section, dict):
        raise _CheckedNumbers(label, {}).refuse(f"says {name} is {section!r}")
    return _CheckedNumbers(f"{label}: {name}", section)


def _check_keys(numbers: _CheckedNumbers, known: set[str]) -> None:
    unknown = sorted(set(numbers.values) - known)
    if unknown:
        raise numbers.refuse(f"says {', '.join(unknown)}, which nobody knows")


def _make_vision(numbers: _CheckedNumbers, image_px: int) -> VisionSpec:
    published = VisionSpec()
    values = {
        field: numbers.read_count(field, key, default=getattr(published, field))
        for field, key in _VISION_KEYS.items()
    }
    values["image_px"] = numbers.read_count("image_px", *_IMAGE_KEYS, default=image_px)
    vision = VisionSpec(**values)
    _check_divides(numbers, "heads", vision.n_heads, "width", vision.width)
    if vision.image_px % vision.patch_px:
        raise WeightsError(
            f"a picture of {vision.image_px} pixels is no whole number of patches of "
            f"{vision.patch_px}",
            "check image_size in the checkpoint's config and in architecture.json",
        )
    return vision


def _make_qformer(numbers: _CheckedNumbers) -> QFormerSpec:
    published = QFormerSpec()
    values = {
        field: numbers.read_count(field, key, default=getattr(published, field))
        for field, key in _QFORMER_KEYS.items()
    }
    qformer = QFormerSpec(**values)
    _check_divides(numbers, "heads", qformer.n_heads, "width", qformer.width)
    return qformer


def _read_language(files: SourceFiles) -> LanguageSpec:
    numbers = _CheckedNumbers(files.label(files.phi_config), read_json_object(files.phi_config))
    width = numbers.read_count("width", "hidden_size", "n_embd")
    n_heads = numbers.read_count("n_heads", "num_attention_heads", "n_head")
    _check_divides(numbers, "heads", n_heads, "width", width)
    _check_kind(numbers, n_heads)
    rope = _read_rope(numbers)
    return LanguageSpec(
        width=width,
        n_layers=numbers.read_count("n_layers", "num_hidden_layers", "n_layer"),
        n_heads=n_heads,
        mlp_width=_read_mlp_width(numbers, width),
        vocab_size=numbers.read_count("vocab_size", "vocab_size"),
        context_length=numbers.read_count(
            "context_length", "max_position_embeddings", "n_positions"
        ),
        rotary_width=_read_rotary_width(numbers, rope, width // n_heads),
        rope_base=rope.read_real("rope_theta", default=LanguageSpec.rope_base),
        eps=numbers.read_real("layer_norm_eps", "layer_norm_epsilon", default=LanguageSpec.eps),
    )


def _read_mlp_width(numbers: _CheckedNumbers, width: int) -> int:
    """The MLP's width; the first release writes null for four times the model's."""
    first_release = "n_embd" in numbers.values
    default = 4 * width if first_release else None
    return numbers.read_count("mlp_width", "intermediate_size", "n_inner", default=default)


def _read_rope(numbers: _CheckedNumbers) -> _CheckedNumbers:
    """Where the rotary numbers stand: in the config itself, or since transformers 5 in a part."""
    nested = numbers.values.get("rope_parameters")
    if not isinstance(nested, dict):
        return numbers
    return _CheckedNumbers(f"{numbers.label}: rope_parameters", {**numbers.values, **nested})


def _read_rotary_width(numbers: _CheckedNumbers, rope: _CheckedNumbers, head_width: int) -> int:
    """Channels of a head that are rotated: given, or as a fraction of the head's width."""
    published = LanguageSpec.rotary_width / LanguageSpec().head_width
    fraction = rope.read_real("partial_rotary_factor", default=published)
    rotary = numbers.read_count("rotary_width", "rotary_dim", default=int(fraction * head_width))
    if rotary % 2 or not 0 < rotary <= head_width:
        raise numbers.refuse(f"rotates {rotary} of the {head_width} channels of a head")
    return rotary


def _check_kind(numbers: _CheckedNumbers, n_heads: int) -> None:
    """Refuses variations that Phi-2 has not and that would change what is computed."""
    kv_heads = numbers.read_count("n_heads", "num_key_value_heads", "n_head_kv", default=n_heads)
    if kv_heads != n_heads:
        raise numbers.refuse(f"says {kv_heads} key heads for {n_heads} heads")
    key, activation = numbers.find("hidden_act", "activation_function")
    if activation not in (None, "gelu_new"):
        raise numbers.refuse(f"says {key} is {activation!r}, not 'gelu_new'")
    if numbers.values.get("tie_word_embeddings"):
        raise numbers.refuse("says tie_word_embeddings is true")
    for key in ("rope_scaling", "rope_parameters"):
        rope = numbers.values.get(key)
        kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else rope
        if kind not in (None, "default"):
            raise numbers.refuse(f"says {key} is {rope!r}")


def _check_divides(numbers: _CheckedNumbers, small: str, part: int, large: str, whole: int) -> None:
    if whole % part:
        raise numbers.refuse(f"says {part} {small} for a {large} of {whole}")
