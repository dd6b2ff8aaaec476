"""A file of questions and a variant become figures, as a table or one document.

Answers are kept as they come, so that the same command goes on where it was stopped.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tinyv_cli.console import Console, to_table
from tinyv_cli.devices.names import to_kind
from tinyv_cli.engine import Demand, Engine, FoundVariant, find_variant, plan_engine
from tinyv_cli.errors import UsageError
from tinyv_cli.evaluation.figures import (
    ALL,
    Distance,
    Figure,
    TaskFigures,
    make_distance,
    make_figures,
)
from tinyv_cli.evaluation.ledger import Answered, Compared, E, Ledger, make_key, resolve_ledger
from tinyv_cli.evaluation.questions import (
    Question,
    check_pictures,
    read_question_file,
    read_questions,
)
from tinyv_cli.options.report import EvalArguments
from tinyv_cli.options.shared import to_backend_options
from tinyv_cli.prompts.prompt import make_prompt
from tinyv_cli.variants.manifest import Variant

if TYPE_CHECKING:
    from tinyv_cli.evaluation.evaluate import Candidate, Comparison


def evaluate_variant(arguments: EvalArguments) -> None:
    """Runs `tinyv eval`.

    Raises:
        UsageError: an option's value does not exist, or two variants cannot be compared.
        InputError: the file of questions or a picture cannot be used.
        WeightsError: there is no such variant, or it is damaged.
        DeviceError: the device cannot run it, or answers can be kept nowhere.
        KeyboardInterrupt: Ctrl-C; what was answered is kept.
    """
    from tinyv_cli.evaluation.evaluate import evaluate
    from tinyv_cli.session import AnswerOptions

    started = time.perf_counter()
    console = Console(quiet=arguments.quiet)
    content = read_question_file(arguments.questions)
    in_file = read_questions(content, arguments.questions)
    questions = in_file[: arguments.limit]
    check_pictures(questions)
    candidate, comparison = _make_candidates(arguments, content, in_file, console)
    other = comparison.candidate if comparison else None
    for each in (candidate, other):
        n_done = sum(q.index in each.answers.entries for q in questions) if each else 0
        if each and n_done:
            console.write_note(
                f"{each.name} has answered {n_done} of {len(questions)} questions before; "
                "`--fresh` starts again"
            )
    options = AnswerOptions(max_new_tokens=arguments.max_tokens)
    try:
        evaluate(candidate, comparison, questions, options, console.progress)
    except KeyboardInterrupt:
        console.write_note("what was answered is kept; the same command goes on from there")
        raise
    tasks = make_figures(
        questions, candidate.answers.entries, other.answers.entries if other else None
    )
    distance = make_distance(questions, comparison.results.entries) if comparison else None
    if arguments.json:
        names = {"model": candidate.name, "against": other.name if other else None}
        about = {**names, "toy": candidate.engine.is_toy, "questions": str(arguments.questions)}
        seconds = time.perf_counter() - started
        console.write_json({**describe_figures(tasks, distance), **about, "seconds": seconds})
    else:
        console.write_line(to_tables(tasks, distance))
    console.write_note(f"the answers of {candidate.name} are in {candidate.answers.path}")


def describe_figures(tasks: Mapping[str, TaskFigures], distance: Distance | None) -> dict[str, Any]:
    """Describes figures for `--json`; what needs a second variant is null without one."""
    rows = {
        name: {
            "n": figures.n,
            "accuracy": figures.accuracy.value,
            "low": figures.accuracy.low,
            "high": figures.accuracy.high,
            **_to_keys("agreement", figures.agreement),
            **_to_keys("same_text", figures.same_text),
        }
        for name, figures in tasks.items()
    }
    everything = rows.pop(ALL)
    return {
        "tasks": rows,
        "all": everything,
        **_to_keys("kl_nats", distance.kl_nats if distance else None),
        **_to_keys("top1_agreement", distance.top1_agreement if distance else None),
    }


def _to_keys(name: str, figure: Figure | None) -> dict[str, float | None]:
    """Makes the keys of a figure and its interval in a document."""
    values = (figure.value, figure.low, figure.high) if figure else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def to_tables(tasks: Mapping[str, TaskFigures], distance: Distance | None) -> str:
    """Formats figures for people: a line a task, then the distance of two variants."""
    header = ["task", "questions", "right", "95 %"]
    rows = [[name, str(each.n), *_to_share_cells(each.accuracy)] for name, each in tasks.items()]
    if distance is None:
        return to_table(header, rows)
    header += ["same answer", "95 %", "same text"]
    for row, each in zip(rows, tasks.values(), strict=True):
        row += [*_to_share_cells(each.agreement), _to_share_cells(each.same_text)[0]]
    kl = distance.kl_nats
    measured = [
        ["logits KL (nats)", f"{kl.value:.4f}", f"{kl.low:.4f}-{kl.high:.4f}"],
        ["same best token", *_to_share_cells(distance.top1_agreement)],
    ]
    tables = to_table(header, rows), to_table(["", "", "95 %"], measured)
    return "\n\n".join(tables)


def _to_share_cells(figure: Figure | None) -> list[str]:
    """Formats a share and its interval for a table."""
    if figure is None:
        return ["-", "-"]
    return [f"{100 * figure.value:.1f} %", f"{100 * figure.low:.1f}-{100 * figure.high:.1f} %"]


def _make_candidates(
    arguments: EvalArguments, content: bytes, questions: Sequence[Question], console: Console
) -> "tuple[Candidate, Comparison | None]":
    """Finds and plans the variants, and opens the ledgers of what they answered before.

    Args:
        arguments: as typed.
        content: of the file of questions.
        questions: all that are in it.
        console: takes notes.

    Raises:
        UsageError: vocabulary or tokenizer of two variants differ, so that their logits do not
            stand for the same tokens.
    """
    from tinyv_cli.answers.tokenizer import open_tokenizer
    from tinyv_cli.evaluation.evaluate import Candidate, Comparison

    found = find_variant(arguments.model, arguments.template)
    other = None
    if arguments.against is not None:
        other = replace(find_variant(arguments.against, arguments.template), notes=())
        if _identify_tokens(found.variant) != _identify_tokens(other.variant):
            raise UsageError(
                f"{found.variant.name} and {other.variant.name} have different tokens and cannot "
                "be compared",
                "name a variant of the same sources: `tinyv list`",
            )
    questions_hash = hashlib.sha256(content).hexdigest()
    engine = _plan(arguments, found, questions, console)
    key = _make_answers_key(arguments, questions_hash, engine)
    answers = _open_ledger(arguments, key, Answered, len(questions))
    candidate = Candidate(engine, answers)
    if other is None:
        return candidate, None
    # A variant compared with itself has one plan and one ledger.
    if other.variant.folder != found.variant.folder:
        engine = _plan(arguments, other, questions, console)
    other_key = _make_answers_key(arguments, questions_hash, engine)
    if other_key != key:
        answers = _open_ledger(arguments, other_key, Answered, len(questions))
    results = _open_ledger(arguments, make_key(key, other_key), Compared, len(questions))
    comparison = Comparison(
        candidate=Candidate(engine, answers),
        results=results,
        tokenizer=open_tokenizer(found.variant),
        vocab_size=found.variant.manifest.spec.language.vocab_size,
        folder=results.path.parent,
    )
    return candidate, comparison


def _identify_tokens(variant: Variant) -> list[object]:
    """Returns what logits stand for: the size of the vocabulary, and the tokenizer's hashes."""
    hashes = [entry.sha256 for entry in variant.manifest.files if entry.role == "tokenizer"]
    return [variant.manifest.spec.language.vocab_size, *hashes]


def _plan(
    arguments: EvalArguments, found: FoundVariant, questions: Sequence[Question], console: Console
) -> Engine:
    """Plans for the longest question; both sides stay open from picture to picture."""
    longest = max(
        len(make_prompt(found.template, (), each.text).text.encode())
        + max(arguments.max_tokens, len(each.reference.encode()))
        for each in questions
    )
    n_positions = longest + found.variant.manifest.spec.qformer.n_queries
    demand = Demand(n_positions, n_slots=arguments.parallel)
    wanted = to_backend_options(arguments)
    return plan_engine(found, wanted, demand, console.write_note, console.progress)


def _make_answers_key(arguments: EvalArguments, questions_hash: str, engine: Engine) -> str:
    """Hashes everything that decides what a variant answers, but for the pictures' content."""
    return make_key(
        questions_hash,
        engine.variant.manifest.to_json(),
        engine.template.name,
        str(arguments.max_tokens),
        str(arguments.context_length),
        to_kind(engine.options.device),
    )


def _open_ledger(arguments: EvalArguments, key: str, kind: type[E], n_questions: int) -> Ledger[E]:
    """Opens what was found out before under this key; nothing with `--fresh`."""
    ledger = Ledger(resolve_ledger(arguments.questions, key), kind, n_questions)
    if arguments.fresh:
        ledger.clear()
    return ledger
