"""An answer becomes a JSON document, or a few lines of times and counts; computes nothing."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tinyv_cli.console import to_size
from tinyv_cli.devices.names import is_cuda
from tinyv_cli.prompts.boxes import boxes_to_json, read_boxes
from tinyv_cli.variants.memory import read_peak_rss_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from tinyv_cli.answers.reply import Answer


@dataclass(frozen=True)
class Origin:
    """Variant, template and device of an answer.

    Attributes:
        model: name of the variant.
        template: name of its prompts' template.
        device: where it ran.
        load_s: how long opening the variant took, in seconds.
        is_toy: whether it is the miniature, or was made from it.
    """

    model: str
    template: str
    device: str
    load_s: float
    is_toy: bool = False


def make_document(
    answer: "Answer", origin: Origin, pixels: "Sequence[np.ndarray]" = ()
) -> dict[str, Any]:
    """Makes the document that `--json` prints; times in seconds, `total` is without `load`.

    Args:
        answer: that is told.
        origin: what made it.
        pixels: (1, 3, S, S) of each picture that it is about.
    """
    timings = answer.timings
    return {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "tokens": list(answer.token_ids),
        "prompt": answer.prompt,
        "template": origin.template,
        "model": origin.model,
        **describe_toy(origin.is_toy, pixels),
        "device": origin.device,
        "usage": asdict(answer.usage),
        "timings": {
            "load": origin.load_s,
            "encode": timings.encode_s,
            "prefill": timings.prefill_s,
            "decode": timings.decode_s,
            "first_token": timings.first_token_s,
            "total": timings.total_s,
        },
    }


def describe_toy(is_toy: bool, pixels: "Sequence[np.ndarray]") -> dict[str, bool]:
    """Tells a toy's answer: `toy`, and for one `drawing`, false where it is surely made up.

    Args:
        is_toy: whether the miniature answers.
        pixels: (1, 3, S, S) of each picture that is asked about.
    """
    if not is_toy:
        return {"toy": False}
    from tinyv_cli.pictures.drawn import is_drawing

    return {"toy": True, "drawing": all(map(is_drawing, pixels))}


def describe_boxes(text: str, size: tuple[int, int]) -> list[dict[str, Any]]:
    """The boxes of an answer in 0-1 and in pixels of the upright picture (width, height)."""
    return boxes_to_json(read_boxes(text), *size)


def make_stats(answer: "Answer", origin: Origin, needed_bytes: int) -> str:
    """Formats times, speeds and memory in a few lines.

    Args:
        answer: with its timings.
        origin: what made it.
        needed_bytes: of its device's memory, as estimated before.
    """
    usage, timings = answer.usage, answer.timings
    estimated = f"{to_size(needed_bytes, 2)} estimated"
    estimated += " on the GPU" if is_cuda(origin.device) else ""
    n_computed = usage.prompt_tokens - usage.reused_tokens
    # The first token comes out of the prompt's pass.
    n_decoded = max(0, usage.completion_tokens - 1)
    peak_bytes = read_peak_rss_bytes()  # not known on Windows
    peak, _, unit = "-  " if peak_bytes is None else to_size(peak_bytes, 2).partition(" ")
    return "\n".join(
        [
            f"load         {origin.load_s:8.2f} s",
            f"picture      {timings.encode_s:8.2f} s",
            f"prompt       {timings.prefill_s:8.2f} s  {_to_rate(n_computed, timings.prefill_s)}",
            f"answer       {timings.decode_s:8.2f} s  {_to_rate(n_decoded, timings.decode_s)}",
            f"first token  {timings.first_token_s or 0.0:8.2f} s",
            f"total        {timings.total_s:8.2f} s  without load",
            f"memory       {peak:>8} {unit}, {estimated}",
        ]
    )


def _to_rate(n_tokens: int, elapsed_s: float) -> str:
    """Formats tokens, and tokens a second where the time is known."""
    rate = f", {n_tokens / elapsed_s:.1f} a second" if n_tokens and elapsed_s > 0 else ""
    return f"{n_tokens} tokens{rate}"
