"""The variants on this computer become a table, or one JSON document, without their weights."""

import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinyv_cli.console import Console, measure_columns, to_size, to_table
from tinyv_cli.disk.places import variants_dir
from tinyv_cli.errors import WeightsError
from tinyv_cli.options.report import ListArguments
from tinyv_cli.variants.home import (
    HOW_TO_MAKE_ONE,
    DamagedVariant,
    list_named_variants,
    resolve_variant,
)
from tinyv_cli.variants.manifest import MeasuredErrors, Variant
from tinyv_cli.variants.miniature import NAME, is_miniature, read_kinds

HEADER = ("name", "size", "bits", "rounding", "divergence", "same token", "answers")


def print_variants(arguments: ListArguments) -> None:
    """Runs `tinyv list`.

    Raises:
        WeightsError: the folder of variants cannot be read.
    """
    console = Console()
    found = list_named_variants()
    if arguments.json:
        console.write_json({"variants": [describe_entry(each) for each in found]})
        return
    if not found:
        console.write_note(f"there is no variant in {variants_dir()}; {HOW_TO_MAKE_ONE}")
        return
    columns = measure_columns(sys.stdout)
    answering = _find_answering()
    rows, damaged = [], []
    for each in found:
        if isinstance(each, DamagedVariant):
            damaged.append(f"{each.name}  damaged: {each.error.problem}")
            continue
        manifest = each.manifest
        mark = "yes" if each.folder == answering else ""
        what = [to_size(manifest.size_bytes), str(manifest.bits), manifest.rounding or "-"]
        rows.append([each.name, *what, *to_error_cells(manifest.errors)[:2], mark])
    if rows:
        console.write_line(to_table(HEADER, rows, columns))
    for line in damaged:
        console.write_line(line)
    if arguments.verbose and (kinds := read_kinds()):
        console.write_line(f"\nThe {NAME} knows drawings of {len(kinds)} kinds:")
        for line in textwrap.wrap(", ".join(kinds), columns):
            console.write_line(line)


def describe_entry(variant: Variant | DamagedVariant) -> dict[str, Any]:
    """Describes one variant for `--json`; `damaged` is null for a sound one."""
    if isinstance(variant, DamagedVariant):
        damage = {"problem": variant.error.problem, "hint": variant.error.hint}
        return {"name": variant.name, "folder": str(variant.folder), "damaged": damage}
    manifest = variant.manifest
    return {
        "name": variant.name,
        "folder": str(variant.folder),
        "answers": variant.folder == _find_answering(),
        "toy": is_miniature(variant),
        "size_bytes": manifest.size_bytes,
        "bits": manifest.bits,
        "rounding": manifest.rounding,
        "stage": manifest.spec.stage,
        "template": manifest.template,
        "errors": asdict(manifest.errors) if manifest.errors else None,
        "damaged": None,
    }


def _find_answering() -> Path | None:
    """Returns the folder of the variant that answers where none is named; None where none can."""
    try:
        return resolve_variant(None).folder
    except WeightsError:
        return None


def to_error_cells(errors: MeasuredErrors | None) -> list[str]:
    """Formats divergence, agreement and cosine for a table; dashes where nothing was measured."""
    if errors is None:
        return ["-", "-", "-"]
    return [
        f"{errors.logits_kl_nats:.4f}",
        f"{100 * errors.top1_agreement:.1f} %",
        f"{errors.image_token_cosine_mean:.4f}",
    ]
