"""OpenAI's responses: a body becomes a question, an answer the events that clients read.

Nothing is stored, so a response cannot be gone on from.

Source: platform.openai.com, "API reference", Responses; and what clients were recorded to read.
"""

import secrets
import time
from typing import Any

from tinyv_cli.serving.dialects.asking import (
    DEFAULT_MAX_TOKENS,
    Asked,
    Body,
    RefusedError,
    Said,
    read_sampling,
    to_conversation,
)
from tinyv_cli.serving.dialects.openai import (
    describe_error,
    read_form,
    read_messages,
    refuse_unkept,
    to_event,
)
from tinyv_cli.serving.jobs import Ended, Step


class Response:
    """One request to `/v1/responses` and its answer.

    Args:
        body: of the request.

    Attributes:
        asked: the question.

    Raises:
        RefusedError: it cannot be answered as it asks.
    """

    media_type = "text/event-stream"
    describe_error = staticmethod(describe_error)

    def __init__(self, body: Body) -> None:
        refuse_unkept(body)
        if body.text("previous_response_id"):
            raise body.refuse("previous_response_id", "cannot be had: nothing is stored here")
        given = body.get("input")
        if isinstance(given, str):
            said = [Said("user", given)]
        else:
            said = read_messages(body.items("input"), "input")
        instructions = body.text("instructions")
        if instructions:
            said.insert(0, Said("system", instructions))
        question, turns, pictures = to_conversation(said)
        form = body.part("text").part("format")
        self.asked = Asked(
            model=body.text("model"),
            question=question,
            turns=turns,
            pictures=pictures,
            max_tokens=body.whole("max_output_tokens", 1) or DEFAULT_MAX_TOKENS,
            sampling=read_sampling(body),
            schema=read_form(form, form),
            streams=body.flag("stream"),
        )
        self._item_id = f"msg_{secrets.token_hex(12)}"
        self._head = {
            "id": f"resp_{secrets.token_hex(12)}",
            "object": "response",
            "created_at": int(time.time()),
            "model": self.asked.model,
            "instructions": instructions,
            "metadata": {},
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
        }
        self._n_events = 0

    def write_whole(self, ended: Ended) -> dict[str, Any]:
        """Writes the answer as one document."""
        is_cut = ended.reason == "length"
        n_reused = ended.answer.usage.reused_tokens if ended.answer else 0
        return {
            **self._head,
            "status": "incomplete" if is_cut else "completed",
            "output": [self._make_item(ended.text, "incomplete" if is_cut else "completed")],
            "usage": {
                "input_tokens": ended.n_prompt,
                "input_tokens_details": {"cached_tokens": n_reused},
                "output_tokens": ended.n_answer,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": ended.n_prompt + ended.n_answer,
            },
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        }

    def write_first(self) -> bytes:
        """Writes the events before the text."""
        begun = {**self._head, "status": "in_progress", "output": [], "usage": None}
        begun |= {"error": None, "incomplete_details": None}
        item = {**self._make_item("", "in_progress"), "content": []}
        return b"".join(
            [
                self._write("response.created", response=begun),
                self._write("response.in_progress", response=begun),
                self._write("response.output_item.added", output_index=0, item=item),
                self._write("response.content_part.added", **self._place, part=_make_part("")),
            ]
        )

    def write_piece(self, text: str) -> bytes:
        """Writes more of the answer."""
        return self._write("response.output_text.delta", **self._place, delta=text, logprobs=[])

    def write_last(self, ended: Ended) -> bytes:
        """Writes the events after the text."""
        whole = self.write_whole(ended)
        end = f"response.{whole['status']}"
        part = _make_part(ended.text)
        return b"".join(
            [
                self._write(
                    "response.output_text.done", **self._place, text=ended.text, logprobs=[]
                ),
                self._write("response.content_part.done", **self._place, part=part),
                self._write("response.output_item.done", output_index=0, item=whole["output"][0]),
                self._write(end, response=whole),
            ]
        )

    def write_failure(self, refusal: RefusedError) -> bytes:
        """Writes an error into the stream."""
        error = describe_error(refusal)[1]["error"]
        return self._write(
            "error", code=error["code"] or error["type"], message=error["message"], param=None
        )

    def write_step(self, step: Step | None) -> bytes:
        """Writes a comment, which clients pass over, so that nobody takes the line for dead."""
        return b": waiting\n\n"

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _make_item(self, text: str, status: str) -> dict[str, Any]:
        item = {"id": self._item_id, "type": "message", "status": status, "role": "assistant"}
        return {**item, "content": [_make_part(text)]}

    def _write(self, name: str, **values: object) -> bytes:
        document = {"type": name, "sequence_number": self._n_events, **values}
        self._n_events += 1
        return to_event(document, name)


def _make_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
