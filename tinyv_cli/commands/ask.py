"""A picture and a question become an answer on stdout, or one JSON document; computes nothing.

What is cheap to find wrong is looked at first: words, picture, variant. Then gigabytes are opened.
"""

import shlex
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyv_cli.commands.opening import FirstPicture, check_variant, open_session, resolve_template
from tinyv_cli.console import Console
from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.home import list_variants, resolve_variant
from tinyv_cli.manifest import Variant
from tinyv_cli.memory import plan_memory, read_peak_rss_bytes
from tinyv_cli.miniature import tell_miniature
from tinyv_cli.options import AskArguments
from tinyv_cli.prompt import Template, check_question, make_prompt

if TYPE_CHECKING:
    from tinyv_cli.backends import Backend
    from tinyv_cli.reply import Answer, Reply
    from tinyv_cli.session import AnswerOptions

STDIN = "-"


def answer_question(arguments: AskArguments) -> None:
    """Does what `tinyv ask` says.

    Raises:
        UsageError: a template, device or number that does not exist.
        InputError: the picture or the question cannot be used.
        WeightsError: there is no variant, or it is damaged.
        DeviceError: the device cannot run it.
        KeyboardInterrupt: Ctrl-C, after what was said until then has been written.
    """
    from tinyv_cli.backends import BackendOptions
    from tinyv_cli.image import read_picture, to_pixels
    from tinyv_cli.image_cache import has_tokens

    console = Console()
    options = _make_answer_options(arguments)
    question = _read_question(arguments)
    variant = resolve_variant(arguments.model)
    template = resolve_template(variant, arguments.template)
    picture = read_picture(_resolve_picture(arguments))
    _tell_choice(console, variant, arguments)
    tell_miniature(variant, console.write_note)
    check_variant(variant, console)
    prompt = make_prompt(template, (), question).text
    pixels = to_pixels(picture, variant.manifest.spec.vision.image_px)
    keeps_images = not arguments.no_cache
    memory = plan_memory(
        variant,
        _count_positions(variant, prompt, arguments),
        arguments.memory_budget,
        encodes=not (keeps_images and has_tokens(variant, pixels, "cpu")),
    )
    if arguments.show_prompt:
        console.write_report(prompt)
    device = BackendOptions(arguments.device, arguments.threads, arguments.ctx_size)
    shown = FirstPicture(pixels, keeps_images, memory.is_frugal)
    with open_session(variant, template, device, console, shown) as (session, backend):
        reply = session.ask(question, options)
        if arguments.json:
            _write_document(console, reply, variant, template, backend)
        else:
            _write_text(console, reply)
    _tell_end(console, reply.answer, arguments, backend.load_s, memory.needed_bytes)


def _count_positions(variant: Variant, prompt: str, arguments: AskArguments) -> int:
    """Positions of prompt and answer at most: a token has one byte or more."""
    spec = variant.manifest.spec
    n_positions = spec.qformer.n_queries + len(prompt.encode()) + arguments.max_tokens
    return min(n_positions, arguments.ctx_size or spec.language.context_length)


def _make_answer_options(arguments: AskArguments) -> "AnswerOptions":
    """Sampling and length, checked against their ranges."""
    from tinyv_cli.sampling import SamplingOptions
    from tinyv_cli.session import AnswerOptions

    sampling = SamplingOptions(
        temperature=arguments.temp,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repeat_penalty,
        seed=arguments.seed,
    )
    return AnswerOptions(max_new_tokens=arguments.max_tokens, sampling=sampling)


def _read_question(arguments: AskArguments) -> str:
    """The question exactly as typed; from stdin, without the newline that ends its last line."""
    if arguments.prompt != STDIN:
        check_question(arguments.prompt)
        return arguments.prompt
    if arguments.picture == STDIN:
        raise UsageError(
            "picture and question cannot both come from stdin",
            "name the picture's file: `tinyv ask PICTURE -`",
        )
    try:
        question = _read_stdin().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"the question on stdin is not UTF-8 text: {error.reason} at byte {error.start}",
            "convert it: `iconv -t UTF-8 question.txt | tinyv ask PICTURE -`",
        ) from error
    question = question.removesuffix("\n").removesuffix("\r")
    check_question(question)
    return question


def _resolve_picture(arguments: AskArguments) -> Path | bytes:
    """A file, or the bytes on stdin.

    Raises:
        InputError: picture and question were given the other way round.
    """
    name, question = arguments.picture, arguments.prompt
    if name == STDIN:
        return _read_stdin()
    with suppress(OSError):  # a question is often too long for a file's name
        if not Path(name).exists() and Path(question).is_file():
            swapped = shlex.join(["tinyv", "ask", question, name])
            raise InputError(f"there is no file {name}", f"the picture comes first: `{swapped}`")
    return Path(name)


def _read_stdin() -> bytes:
    """Everything on stdin; nothing where stdin is closed."""
    return sys.stdin.buffer.read() if sys.stdin is not None else b""


def _tell_choice(console: Console, variant: Variant, arguments: AskArguments) -> None:
    """Says which variant answers where nobody said which and there are several."""
    if arguments.model is None and len(list_variants()) > 1:
        console.write_note(f"{variant.name} answers, the newest variant; `-m NAME` takes another")


def _write_text(console: Console, reply: "Reply") -> None:
    """Streams the answer; whatever ends it, its line is ended too."""
    try:
        for piece in reply:
            console.write_piece(piece)
    except BaseException:
        console.end_broken_answer()
        raise
    console.end_answer()


def _write_document(
    console: Console, reply: "Reply", variant: Variant, template: Template, backend: "Backend"
) -> None:
    """Writes the one document; an answer that Ctrl-C cut short is written as far as it went."""
    try:
        reply.finish()
    finally:
        reply.close()
        if not isinstance(sys.exception(), Exception):
            console.write_json(make_document(reply.answer, variant, template, backend))


def make_document(
    answer: "Answer", variant: Variant, template: Template, backend: "Backend"
) -> dict[str, Any]:
    """What `--json` prints of an answer; times are in seconds, `total` is without `load`."""
    timings = answer.timings
    return {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "tokens": list(answer.token_ids),
        "prompt": answer.prompt,
        "template": template.name,
        "model": variant.name,
        "device": backend.device,
        "usage": asdict(answer.usage),
        "timings": {
            "load": backend.load_s,
            "encode": timings.encode_s,
            "prefill": timings.prefill_s,
            "decode": timings.decode_s,
            "first_token": timings.first_token_s,
            "total": timings.total_s,
        },
    }


def _tell_end(
    console: Console,
    answer: "Answer",
    arguments: AskArguments,
    load_s: float,
    needed_bytes: int,
) -> None:
    """Says on stderr that an answer was cut, and how long it took if that was asked for."""
    if answer.finish_reason == "length":
        n = answer.usage.completion_tokens
        is_limit = n == arguments.max_tokens
        way_out = f"`-n {2 * n}` allows more" if is_limit else "the context is full, see `-c`"
        console.write_note(f"the answer was cut after {n} tokens; {way_out}")
    if arguments.stats:
        console.write_report(make_stats(answer, load_s, needed_bytes))


def make_stats(answer: "Answer", load_s: float, needed_bytes: int) -> str:
    """A few lines of times, speeds and memory.

    Args:
        answer: with its timings.
        load_s: what opening took, in seconds.
        needed_bytes: of memory, as estimated before.
    """
    usage, timings = answer.usage, answer.timings
    n_computed = usage.prompt_tokens - usage.reused_tokens
    # The first token comes out of the prompt's pass.
    n_decoded = max(0, usage.completion_tokens - 1)
    return "\n".join(
        [
            f"load         {load_s:8.2f} s",
            f"picture      {timings.encode_s:8.2f} s",
            f"prompt       {timings.prefill_s:8.2f} s  {_to_rate(n_computed, timings.prefill_s)}",
            f"answer       {timings.decode_s:8.2f} s  {_to_rate(n_decoded, timings.decode_s)}",
            f"first token  {timings.first_token_s or 0.0:8.2f} s",
            f"total        {timings.total_s:8.2f} s  without load",
            f"memory       {_to_gb(read_peak_rss_bytes())} GB, {needed_bytes / 1e9:.2f} estimated",
        ]
    )


def _to_gb(n_bytes: int | None) -> str:
    """Bytes in 10⁹; a dash where they are not known."""
    return f"{'-':>8}" if n_bytes is None else f"{n_bytes / 1e9:8.2f}"


def _to_rate(n_tokens: int, elapsed_s: float) -> str:
    """Tokens, and tokens a second where that can be told."""
    rate = f", {n_tokens / elapsed_s:.1f} a second" if n_tokens and elapsed_s > 0 else ""
    return f"{n_tokens} tokens{rate}"
