"""Ollama's chat and generate: a body becomes a question, an answer the lines that clients read.

Source: github.com/ollama/ollama, docs/api.md; and what clients were recorded to send and read.
"""

import json
import re
from datetime import UTC, datetime
from typing import Any

from tinyv_cli.errors import UsageError
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
from tinyv_cli.serving.dialects.openai import ANY_OBJECT
from tinyv_cli.serving.jobs import Ended, Step
from tinyv_cli.serving.shelf import Loaded

_QUEUE_FULL, _BUSY = 429, 503
_NS = 1_000_000_000
# litellm's `ollama/` route puts this frame around every prompt, which hides a task's tag.
_FRAME = re.compile(r"\s*### User:\n((?:(?!\n### ).)*?)\n\n\s*", re.DOTALL)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_FOREVER = datetime(2318, 1, 1, tzinfo=UTC)  # as Ollama shows it


def describe_error(refusal: RefusedError) -> tuple[int, dict[str, Any]]:
    """Lays an error out; returns its status and body."""
    status = _BUSY if refusal.status == _QUEUE_FULL else refusal.status
    return status, {"error": refusal.problem}


def describe_loaded(loaded: Loaded) -> dict[str, Any]:
    """Describes a model in memory."""
    is_long = loaded.expires_s >= _FOREVER.timestamp()
    expires = _FOREVER if is_long else datetime.fromtimestamp(loaded.expires_s, UTC)
    on_card = loaded.device.startswith("cuda")
    return {
        **loaded.model.describe(),
        "size": loaded.needed_bytes,
        "expires_at": expires.isoformat(timespec="seconds"),
        "size_vram": loaded.needed_bytes if on_card else 0,
        "context_length": loaded.model.context_length,
    }


def describe_whole(model: Model) -> dict[str, Any]:
    """Describes a model as `/api/show` does."""
    described = model.describe()
    template = model.found.template
    return {
        "license": "",
        "modelfile": "",
        "parameters": "",
        "template": f"{template.before_question}{{{{ .Prompt }}}}{template.after_question}",
        "details": described["details"],
        "model_info": {
            "general.architecture": "tinygptv",
            "tinygptv.context_length": model.context_length,
        },
        "capabilities": ["completion", "vision"],
        "modified_at": described["modified_at"],
    }


def read_duration(value: object) -> float | None:
    """Reads `keep_alive`: a number of seconds, also as text, or `1h30m`; negative is for ever.

    Raises:
        RefusedError: it is none of these.
    """
    if value is None:
        return None
    text = str(value).strip()
    found = _DURATION.findall(text.removeprefix("-"))
    try:
        if isinstance(value, bool):
            raise ValueError
        if "".join(map("".join, found)) == text.removeprefix("-") and found:
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in found)
            seconds = -seconds if text.startswith("-") else seconds
        else:
            seconds = float(text)
        if seconds != seconds:
            raise ValueError
    except ValueError as error:
        raise RefusedError(400, "`keep_alive` has to be seconds, or a text such as 5m") from error
    return float("inf") if seconds < 0 else seconds


def read_keep_alive(text: str) -> float:
    """Reads the option `--keep-alive`.

    Raises:
        UsageError: it is no duration.
    """
    try:
        return read_duration(text) or 0.0
    except RefusedError as error:
        raise UsageError(
            f"'{text}' is no value for --keep-alive",
            "give a duration: `--keep-alive 5m`, 0 to unload at once, -1 for never",
        ) from error


def read_pictures(body: Body) -> tuple[str, ...]:
    """Reads `images`: base64, or `data:` addresses."""
    return tuple(map(to_address, body.texts("images")))


class _Answering:
    """What chat and generate have in common.

    Attributes:
        asked: the question.
    """

    media_type = "application/x-ndjson"
    describe_error = staticmethod(describe_error)
    asked: Asked
    _is_chat = False  # whether answers are messages

    def _read(self, body: Body, question: str | None, **asked: Any) -> Asked:  # noqa: ANN401
        options = body.part("options")
        if body.items("tools"):
            raise RefusedError(400, "this model does not support tools")
        think = body.get("think")
        if think not in (None, False, "false"):
            raise RefusedError(400, "this model does not support thinking")
        if body.flag("logprobs") or body.number("top_logprobs"):
            raise body.refuse("logprobs", "cannot be had from this server")
        n_most = options.whole("num_predict")
        schema = body.get("format")
        if schema == "json":
            schema = ANY_OBJECT
        elif isinstance(schema, dict):
            schema = json.dumps(schema)
        elif schema is not None:
            raise body.refuse("format", "has to be json or a JSON Schema")
        if n_most == 0:
            raise options.refuse("num_predict", "has to be 1 or more, or -1")
        return Asked(
            model=body.text("model"),
            question=question,
            max_tokens=DEFAULT_MAX_TOKENS if n_most is None else n_most if n_most > 0 else None,
            sampling=read_sampling(options),
            stop=options.texts("stop"),
            schema=schema,
            keep_alive_s=read_duration(body.get("keep_alive")),
            streams=body.flag("stream", default=True),
            notes=note_penalties(options),
            **asked,
        )

    def write_whole(self, ended: Ended) -> dict[str, Any]:
        """Writes the answer as one document."""
        if ended.answer is None:
            reason = "unload" if self.asked.keep_alive_s == 0 else "load"
            return {**self._make_line(""), "done": True, "done_reason": reason}
        timings = ended.answer.timings
        return {
            **self._make_line(ended.text),
            "done": True,
            "done_reason": ended.reason,
            "total_duration": int(ended.total_s * _NS),
            "load_duration": int(ended.load_s * _NS),
            "prompt_eval_count": ended.n_prompt,
            "prompt_eval_duration": int((ended.encode_s + timings.prefill_s) * _NS),
            "eval_count": ended.n_answer,
            "eval_duration": int(timings.decode_s * _NS),
        }

    def write_first(self) -> bytes:
        """Writes nothing: lines begin with the answer."""
        return b""

    def write_piece(self, text: str) -> bytes:
        """Writes more of the answer."""
        return _to_line({**self._make_line(text), "done": False})

    def write_last(self, ended: Ended) -> bytes:
        """Writes the last line, without text."""
        return _to_line({**self.write_whole(ended), **self._make_line("")})

    def write_failure(self, refusal: RefusedError) -> bytes:
        """Writes an error into the stream."""
        return _to_line(describe_error(refusal)[1])

    def write_step(self, step: Step | None) -> bytes:
        """Writes nothing: every line would be taken for a part of the answer."""
        return b""

    def _make_line(self, text: str) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
        if not self._is_chat:
            said = {"response": text}
        return {"model": self.asked.model, "created_at": now, **said}


class Chat(_Answering):
    """One request to `/api/chat` and its answer.

    Args:
        body: of the request.

    Raises:
        RefusedError: it cannot be answered as it asks.
    """

    _is_chat = True

    def __init__(self, body: Body) -> None:
        said = []
        for i, each in enumerate(body.items("messages")):
            if not isinstance(each, dict):
                raise RefusedError(400, f"`messages[{i}]` has to be an object")
            message = Body(each, f"messages[{i}]")
            text = message.text("content") or ""
            said.append(Said(read_role(message), text, read_pictures(message)))
        if not said:
            self.asked = self._read(body, None)
            return
        question, turns, pictures = to_conversation(said)
        self.asked = self._read(body, question, turns=turns, pictures=pictures)


class Generate(_Answering):
    """One request to `/api/generate` and its answer.

    Args:
        body: of the request.

    Raises:
        RefusedError: it cannot be answered as it asks.
    """

    def __init__(self, body: Body) -> None:
        prompt = body.text("prompt") or ""
        frame = _FRAME.fullmatch(prompt)
        prompt = (frame[1] if frame else prompt).strip()
        if body.flag("raw"):
            raise body.refuse("raw", "cannot be had: prompts are laid out by the model's template")
        if body.text("suffix"):
            raise body.refuse("suffix", "cannot be had: this model does not fill gaps")
        pictures = read_pictures(body)
        if not prompt:
            self.asked = self._read(body, None)
            return
        said = [Said("system", body.text("system") or ""), Said("user", prompt, pictures)]
        question, turns, pictures = to_conversation(said)
        self.asked = self._read(body, question, turns=turns, pictures=pictures)


def _to_line(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"
