"""A file of questions and a variant become figures, as a table or one document.

Answers are kept as they come, so that the same command goes on where it was stopped.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tinyv_cli.commands.eval.planning import IS_KEPT, clear_if_fresh, note_done, plan_positions
from tinyv_cli.console import Console
from tinyv_cli.devices.names import to_kind
from tinyv_cli.engine import Engine, FoundVariant, find_variant
from tinyv_cli.errors import UsageError
from tinyv_cli.evaluation.figures import make_distance, make_figures
from tinyv_cli.evaluation.ledger import Answered, Compared, E, Ledger, make_key, resolve_ledger
from tinyv_cli.evaluation.questions import (
    Question,
    check_pictures,
    read_question_file,
    read_questions,
)
from tinyv_cli.evaluation.report import describe_figures, to_tables
from tinyv_cli.options.report import EvalArguments
from tinyv_cli.prompts.prompt import make_prompt
from tinyv_cli.variants.manifest import Variant

if TYPE_CHECKING:
    from tinyv_cli.evaluation.evaluate import Candidate, Comparison


def evaluate_variant(arguments: EvalArguments) -> None:
    """Runs `tinyv eval QUESTIONS`.

    Raises:
        UsageError: an option's value does not exist, options do not go together, or two variants
            cannot be compared.
        InputError: the file of questions or a picture cannot be used.
        WeightsError: there is no such variant, or it is damaged.
        DeviceError: the device cannot run it, or answers can be kept nowhere.
        KeyboardInterrupt: Ctrl-C; what was answered is kept.
    """
    from tinyv_cli.evaluation.evaluate import evaluate
    from tinyv_cli.session import AnswerOptions

    started = time.perf_counter()
    console = Console(quiet=arguments.quiet)
    flags = {"--answers": arguments.answers, "--sample": arguments.sample, "--seed": arguments.seed}
    for flag, value in {**flags, "--chart": arguments.chart}.items():
        if value is not None:
            hint = f"name the benchmark: `tinyv eval PATH --benchmark NAME {flag} …`"
            raise UsageError(f"{flag} goes with --benchmark", hint)
    content = read_question_file(arguments.questions)
    in_file = read_questions(content, arguments.questions)
    questions = in_file[: arguments.limit]
    check_pictures(questions)
    candidate, comparison = _make_candidates(arguments, content, in_file, console)
    other = comparison.candidate if comparison else None
    for each in (candidate, other):
        n_done = sum(q.index in each.answers.entries for q in questions) if each else 0
        if each:
            note_done(each.name, n_done, len(questions), console)
    options = AnswerOptions(max_new_tokens=arguments.max_tokens)
    try:
        evaluate(candidate, comparison, questions, options, console.progress)
    except KeyboardInterrupt:
        console.write_note(IS_KEPT)
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
    return plan_positions(arguments, found, longest, console)


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
    path = resolve_ledger(arguments.questions, key)
    return clear_if_fresh(arguments, Ledger(path, kind, n_questions))
