"""A variant's manifest becomes words, or one JSON document; no weights are opened."""

import sys
import textwrap
from dataclasses import asdict

from tinyv_cli.commands.variants.list import describe_entry
from tinyv_cli.console import Console, measure_columns, to_size
from tinyv_cli.options.report import ShowArguments
from tinyv_cli.variants.home import resolve_variant
from tinyv_cli.variants.manifest import FileEntry, Manifest, MeasuredErrors, Variant
from tinyv_cli.variants.miniature import is_miniature

_LABEL = 10  # columns


def show_variant(arguments: ShowArguments) -> None:
    """Runs `tinyv show`.

    Raises:
        WeightsError: there is no such variant, or it cannot be read.
    """
    console = Console()
    variant = resolve_variant(arguments.name)
    manifest = variant.manifest
    if arguments.json:
        about = asdict(manifest)
        parts = ("spec", "recipe", "stop_ids", "sources", "files", "made_by")
        console.write_json(describe_entry(variant) | {name: about[name] for name in parts})
        return
    width = measure_columns(sys.stdout)
    for label, text in describe_variant(variant):
        lines = textwrap.wrap(
            text, max(20, width - _LABEL), break_long_words=False, break_on_hyphens=False
        )
        for number, line in enumerate(lines):
            console.write_line(f"{label if not number else '':<{_LABEL}}{line}")


def describe_variant(variant: Variant) -> list[tuple[str, str]]:
    """Describes a variant in words, a label and a sentence or list at a time."""
    manifest = variant.manifest
    spec = manifest.spec
    lines = [("name", variant.name), ("folder", str(variant.folder))]
    if is_miniature(variant):
        lines.append(("toy", "a miniature that knows drawings of 64 kinds and nothing else"))
    parts = ("vision", "language", "embeddings", "other")
    sizes = dict.fromkeys(parts, 0)
    for entry in manifest.files:
        sizes[_to_part(entry)] += entry.size_bytes
    told = ", ".join(f"{part} {to_size(size)}" for part, size in sizes.items() if size)
    return [
        *lines,
        ("size", f"{to_size(manifest.size_bytes)}: {told}"),
        ("bits", _describe_bits(manifest)),
        ("runs on", " and ".join(variant.devices)),
        (
            "picture",
            f"seen at {spec.vision.image_px} × {spec.vision.image_px} pixels, "
            f"told in {spec.qformer.n_queries} tokens",
        ),
        ("context", f"{spec.language.context_length:,} tokens of prompt and answer"),
        ("template", f"{manifest.template}, of training stage {spec.stage}"),
        ("errors", _describe_errors(manifest.errors)),
        *(
            ("sources" if not number else "", f"{each.path}, {to_size(each.size_bytes)}")
            for number, each in enumerate(manifest.sources)
        ),
        ("made by", manifest.made_by),
    ]


def _to_part(entry: FileEntry) -> str:
    """Names the part of the network that a file belongs to."""
    role = entry.role.removeprefix("cuda-").partition("-")[0]
    return {"decoder": "language"}.get(
        role, role if role in ("vision", "language", "embeddings") else "other"
    )


def _describe_bits(manifest: Manifest) -> str:
    """Says how many bits a weight has, and how it was rounded where the recipe tells."""
    if manifest.bits == 32:
        return "32 a weight: full precision"
    how = f", rounding: {manifest.rounding}" if manifest.rounding else ""
    return f"{manifest.bits} a weight of the language model's matrices{how}"


def _describe_errors(errors: MeasuredErrors | None) -> str:
    """Says how far a variant is from full precision, with the range that is likely at 95 %."""
    if errors is None:
        return "not measured"
    divergence = f"{errors.logits_kl_nats:.4f} nats from full precision"
    same = f"the same best token in {100 * errors.top1_agreement:.1f} %"
    if errors.logits_kl_low is not None and errors.logits_kl_high is not None:
        divergence += f" (likely {errors.logits_kl_low:.4f}-{errors.logits_kl_high:.4f})"
    if errors.n_positions is not None:
        same += f" of {errors.n_positions:,} places"
    cosine = f"image tokens' cosine {errors.image_token_cosine_mean:.4f}"
    return f"{divergence}, {same}, {cosine} (worst {errors.image_token_cosine_min:.4f})"
