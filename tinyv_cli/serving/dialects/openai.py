"""OpenAI's chat completions: a body becomes a question, an answer the chunks that clients read.

Source: platform.openai.com, "API reference", Chat; and what clients were recorded to send and read.
"""

import json
import secrets
import time
from typing import Any

from tinyv_cli.serving.catalog import Model
from tinyv_cli.serving.dialects.asking import (
    DEFAULT_MAX_TOKENS,
    Asked,
    Body,
    RefusedError,
    Said,
    note_penalties,
    read_role,
    read_sampling,
    to_address,
    to_conversation,
)
from tinyv_cli.serving.jobs import Ended, Step

ANY_OBJECT = '{"type": "object"}'
DONE = b"data: [DONE]\n\n"
_TYPES = {403: "permission_error", 429: "rate_limit_error"}
_CODES = {413: "too_large"}


def describe_error(refusal: RefusedError) -> tuple[int, dict[str, Any]]:
    """Lays an error out; returns its status and body."""
    default = "server_error" if refusal.status >= 500 else "invalid_request_error"
    error = {
        "message": refusal.problem,
        "type": _TYPES.get(refusal.status, default),
        "param": None,
        "code": refusal.code or _CODES.get(refusal.status),
    }
    return refusal.status, {"error": error}


def describe_model(model: Model) -> dict[str, Any]:
    """Describes a model, with what some clients read beside the four keys that all do."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_s,
        "owned_by": "tinyv",
        "max_model_len": model.context_length,
        "meta": {"n_ctx": model.context_length},
        "architecture": {"input_modalities": ["text", "image"]},
        "aliases": [model.tag],
    }


def to_event(document: object, name: str | None = None) -> bytes:
    """Writes one message of a stream.

    Source: WHATWG HTML, section 9.2, "Server-sent events".
    """
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(document)}\n\n".encode()


def refuse_unkept(body: Body) -> None:
    """Refuses what would silently be left out of an answer.

    Raises:
        RefusedError: tools, several answers, probabilities or biases are asked for.
    """
    if (body.items("tools") or body.items("functions")) and body.get("tool_choice") != "none":
        raise RefusedError(400, "this model cannot call tools; leave `tools` out")
    if body.number("n") not in (None, 1):
        raise body.refuse("n", "has to be 1: there is one answer to a request")
    if body.flag("logprobs") or body.number("top_logprobs"):
        raise body.refuse("logprobs", "cannot be had from this server")
    if body.get("logit_bias") is not None:
        raise body.refuse("logit_bias", "cannot be had from this server")


def read_form(form: Body, schema: Body) -> str | None:
    """Reads the form that an answer is to have.

    Args:
        form: holds its `type`.
        schema: holds the `schema`.

    Returns:
        A JSON Schema, as text; None for any text.
    """
    kind = form.text("type") or "text"
    match kind:
        case "text":
            return None
        case "json_object":
            return ANY_OBJECT
        case "json_schema":
            wanted = schema.get("schema")
            if not isinstance(wanted, dict):
                raise schema.refuse("schema", "has to be a JSON Schema, an object")
            return json.dumps(wanted)
    raise form.refuse("type", "has to be text, json_object or json_schema")


def read_content(content: object, where: str) -> tuple[str, tuple[str, ...]]:
    """Reads a message's content; returns its texts, joined, and its pictures.

    Args:
        content: a text, a list of parts, or None.
        where: its place, for messages.

    Raises:
        RefusedError: a part is neither text nor picture.
    """
    if content is None or isinstance(content, str):
        return content or "", ()
    if not isinstance(content, list):
        raise RefusedError(400, f"`{where}` has to be a text or a list of parts")
    texts, pictures = [], []
    for i, each in enumerate(content):
        if not isinstance(each, dict):
            raise RefusedError(400, f"`{where}[{i}]` has to be an object")
        part = Body(each, f"{where}[{i}]")
        kind = part.text("type")
        if kind in ("text", "input_text", "output_text", "refusal"):
            texts.append(part.text("text") or "")
        elif kind in ("image_url", "input_image"):
            named = part.get("image_url")
            url = part.part("image_url").text("url") if isinstance(named, dict) else named
            if not isinstance(url, str):
                raise part.refuse("image_url", "has to hold a `data:` address")
            pictures.append(to_address(url))
        else:
            raise part.refuse("type", "has to be text or image_url")
    return "".join(texts), tuple(pictures)


def read_messages(messages: list[Any], where: str) -> list[Said]:
    """Reads the messages of a conversation."""
    said = []
    for i, each in enumerate(messages):
        if not isinstance(each, dict):
            raise RefusedError(400, f"`{where}[{i}]` has to be an object")
        message = Body(each, f"{where}[{i}]")
        text, pictures = read_content(each.get("content"), message.name("content"))
        said.append(Said(read_role(message), text, pictures))
    return said


class ChatCompletion:
    """One request to `/v1/chat/completions` and its answer.

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
        messages = read_messages(body.items("messages"), "messages")
        question, turns, pictures = to_conversation(messages)
        form = body.part("response_format")
        most = [body.whole(key, 1) for key in ("max_tokens", "max_completion_tokens")]
        self._asks_usage = body.part("stream_options").flag("include_usage")
        self.asked = Asked(
            model=body.text("model"),
            question=question,
            turns=turns,
            pictures=pictures,
            max_tokens=min((each for each in most if each), default=DEFAULT_MAX_TOKENS),
            sampling=read_sampling(body),
            stop=body.texts("stop"),
            schema=read_form(form, form.part("json_schema")),
            streams=body.flag("stream"),
            notes=note_penalties(body),
        )
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": self.asked.model,
        }

    def write_whole(self, ended: Ended) -> dict[str, Any]:
        """Writes the answer as one document."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": ended.text},
            "logprobs": None,
            "finish_reason": ended.reason,
        }
        head = {**self._head, "object": "chat.completion"}
        return {**head, "choices": [choice], "usage": _count_usage(ended)}

    def write_first(self) -> bytes:
        """Writes the chunk that names who speaks."""
        return self._write_chunk({"role": "assistant", "content": ""})

    def write_piece(self, text: str) -> bytes:
        """Writes more of the answer."""
        return self._write_chunk({"content": text})

    def write_last(self, ended: Ended) -> bytes:
        """Writes the end of the stream."""
        end = self._write_chunk({}, ended.reason)
        if self._asks_usage:
            chunk = {**self._head, "object": "chat.completion.chunk", "choices": []}
            end += to_event({**chunk, "usage": _count_usage(ended)})
        return end + DONE

    def write_failure(self, refusal: RefusedError) -> bytes:
        """Writes an error into the stream, and its end."""
        return to_event(describe_error(refusal)[1]) + DONE

    def write_step(self, step: Step | None) -> bytes:
        """Writes a comment, which clients pass over, so that nobody takes the line for dead."""
        text = "waiting" if step is None else f"{step.name} {step.place}"
        return f": {text}\n\n".encode()

    def _write_chunk(self, delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return to_event({**chunk, "usage": None} if self._asks_usage else chunk)


def _count_usage(ended: Ended) -> dict[str, Any]:
    n_reused = ended.answer.usage.reused_tokens if ended.answer else 0
    return {
        "prompt_tokens": ended.n_prompt,
        "completion_tokens": ended.n_answer,
        "total_tokens": ended.n_prompt + ended.n_answer,
        "prompt_tokens_details": {"cached_tokens": n_reused},
    }
