"""lmms-eval's requests become answers and losses of a variant: `--model tinyv`.

lmms-eval finds this by its entry point, and it is loaded only there. Tried with version 0.7.3.
"""

import atexit
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from tinyv_cli.answers.generate import ImageTokens
from tinyv_cli.answers.reply import Answer, Reply
from tinyv_cli.answers.scheduler import Request, Scheduler
from tinyv_cli.backends.backend import BackendOptions
from tinyv_cli.console import Console
from tinyv_cli.engine import Demand, OpenEngine, find_variant, plan_engine
from tinyv_cli.errors import TinyvError
from tinyv_cli.evaluation.divergence import log_softmax
from tinyv_cli.evaluation.published.benchmarks import BENCHMARKS
from tinyv_cli.pictures.image import hash_pixels, to_pixels
from tinyv_cli.prompts.boxes import read_boxes
from tinyv_cli.session import AnswerOptions

_BOX_TASKS = re.compile(r"refcoco.*_rec_")  # that read `[x, y, x, y]` in 0-1 and nothing else
_BOX_TASKS_PROMPT = "this sentence describes: "  # what stands before the sentence there
_MAX_NEW_TOKENS = 128  # where a task names none


def make_manifest() -> ModelManifest:
    """Tells lmms-eval of the model; its entry point."""
    return ModelManifest("tinyv", simple_class_path=f"{__name__}.TinyV")


class TinyV(lmms):  # type: ignore[misc]  # the base has no types
    """A variant of tinyv for lmms-eval.

    Args:
        model: name or folder of the variant; None for the newest.
        template: of its prompts; None for the variant's own.
        tag: stands before each prompt, as `[vqa]`; empty asks to the letter. Tasks about boxes are
            asked in this model's own words, as of others it knows none that bring a box.
        parallel: answers at once.
        threads: of the processor; None for the physical cores.
        device: as of `--device`; None for `auto`.
        ignored: what lmms-eval passes to every model, such as the batch's size.
    """

    is_simple = True

    def __init__(
        self,
        model: str | None = None,
        template: str | None = None,
        tag: str = "",
        parallel: int = 8,
        threads: int | None = None,
        device: str | None = None,
        **ignored: object,
    ) -> None:
        """Opens the variant, and frees it when the process ends."""
        super().__init__()
        self._console = Console()
        wanted = BackendOptions(device or "auto", threads, None, None)
        found = find_variant(model, template)
        demand = Demand(n_slots=parallel)
        note, progress = self._console.write_note, self._console.progress
        engine = plan_engine(found, wanted, demand, note, progress)
        stack = ExitStack()
        self._opened: OpenEngine = stack.enter_context(engine.open())
        atexit.register(stack.close)
        self._tag = f"{tag} " if tag else ""
        slots = range(len(self._opened.slots.decoders))
        self._sessions = [self._opened.start_session(slot) for slot in slots]
        self._encoded: tuple[object, list[ImageTokens]] = (None, [])

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answers greedily; a text of `until` ends an answer, and `###` always does.

        Tasks that ask for a box get it in their own notation.
        """

        def begin(each: Instance, slot: int) -> Reply:
            context, settings, *document = each.args
            until = settings.get("until") or ()
            stop = tuple(filter(None, [until] if isinstance(until, str) else until))
            length = int(settings.get("max_new_tokens") or _MAX_NEW_TOKENS)
            prompt = self._tag + context
            if is_about_boxes(each):
                sentence = context.rpartition(_BOX_TASKS_PROMPT)[2]
                prompt = BENCHMARKS["refcoco"].write_prompt(sentence)
            self._show(slot, *document)
            return self._sessions[slot].ask(prompt, AnswerOptions(length, stop=stop))

        def to_text(each: Instance, answer: Answer) -> str:
            return to_harness_boxes(answer.text) if is_about_boxes(each) else answer.text

        def is_about_boxes(each: Instance) -> bool:
            return _BOX_TASKS.search(each.args[4]) is not None

        return self._answer("answering", requests, begin, to_text)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Computes the mean loss of each continuation, and whether it is the greedy answer.

        It is the loss, in nats a token, and not its negative: lmms-eval takes the least.
        """
        logits: dict[int, list[np.ndarray]] = {}  # by the request's own identity
        ids: dict[int, list[int]] = {}

        def begin(each: Instance, slot: int) -> Reply:
            context, target, *document = each.args
            continuation = target if isinstance(target, str) else target(self._read(*document[1:]))
            ids[id(each)] = self._opened.tokenizer.encode(str(continuation))
            taken = logits[id(each)] = []
            self._show(slot, *document)
            session = self._sessions[slot]
            return session.recite(self._tag + context, ids[id(each)][:-1], taken.append)

        def to_loss(each: Instance, _: Answer) -> tuple[float, bool]:
            wanted, taken = ids.pop(id(each)), np.stack(logits.pop(id(each)))
            losses = -log_softmax(taken)[range(len(wanted)), wanted]
            return float(losses.mean()), taken.argmax(-1).tolist() == wanted

        return self._answer("computing losses", requests, begin, to_loss)

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Refuses: tasks of several rounds are not answered."""
        raise NotImplementedError("tinyv answers tasks of one round")

    def _answer(
        self,
        label: str,
        requests: Sequence[Instance],
        begin: Callable[[Instance, int], Reply],
        to_result: Callable[[Instance, Answer], Any],
    ) -> list[Any]:
        """Answers requests at once, and returns what came of them in their order."""
        results: dict[int, Any] = {}
        scheduler: Scheduler[int] = Scheduler(self._opened.slots)

        def list_requests() -> Iterator[Request[int]]:
            for i, each in enumerate(requests):
                yield Request(i, partial(begin, each))

        with self._console.progress(label, len(requests)) as bar:
            for finished in scheduler.run(list_requests()):
                if finished.answer is None:
                    raise finished.error or TinyvError("a request has no answer", "report it")
                i = finished.identity
                results[i] = to_result(requests[i], finished.answer)
                bar.advance()
        return [results[i] for i in range(len(requests))]

    def _read(self, number: int, task: str, split: str) -> Any:  # noqa: ANN401 - any document
        """Returns a document of a task."""
        return self.task_dict[task][split][number]

    def _show(
        self,
        slot: int,
        to_pictures: Callable[[Any], Iterable[Any]],
        *document: Any,  # noqa: ANN401
    ) -> None:
        """Begins a conversation about a document's pictures, encoded once for its neighbours."""
        if self._encoded[0] != document:
            pictures = to_pictures(self._read(*document)) or []
            images = []
            for picture in pictures:
                pixels = to_pixels(picture.convert("RGB"), self._opened.engine.image_px)
                tokens = self._opened.encoder.encode(pixels)[0]
                images.append(ImageTokens(tokens, hash_pixels(pixels)))
            self._encoded = (document, images)
        self._sessions[slot].show_images(*self._encoded[1])


def to_harness_boxes(text: str) -> str:
    """Writes a text's first box as `[x, y, x, y]` in 0-1; a text without one stays as it is."""
    boxes = read_boxes(text)
    if not boxes:
        return text
    box = boxes[0]
    return f"[{box.x1:.2f}, {box.y1:.2f}, {box.x2:.2f}, {box.y2:.2f}]"
