"""Lines of questions become lines of answers, or documents; one conversation, for scripts."""

from collections.abc import Callable
from typing import Any, BinaryIO

from tinyv_cli.addresses import to_shown
from tinyv_cli.answers.reply import Answer
from tinyv_cli.chat.conversation import Conversation
from tinyv_cli.console import Console
from tinyv_cli.errors import InputError
from tinyv_cli.pictures.names import names_picture

ToDocument = Callable[[str, Answer], dict[str, Any]]


def answer_lines(
    conversation: Conversation,
    stream: BinaryIO | None,
    console: Console,
    to_document: ToDocument | None = None,
) -> None:
    """Answers each line before the next is read; blank lines are passed over.

    Every line is a question, also one with a slash before it: a script may not know what it is
    given, and commands write files. The first question that cannot be answered ends the run, since
    the later ones build on it.

    Args:
        conversation: that is held.
        stream: UTF-8; None is empty.
        console: takes an answer a line, newlines inside it as spaces.
        to_document: makes what is written of a question and its answer instead.

    Raises:
        InputError: a line is not UTF-8 text; the questions before it are answered.
        TinyvError: a question cannot be answered; those before it are.
        KeyboardInterrupt: Ctrl-C, after what was said until then has been written.
    """
    was_noted = False
    for number, line in enumerate(stream or (), 1):
        try:
            question = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise InputError(
                f"line {number} on stdin is not UTF-8 text: {error.reason} at byte {error.start}",
                "convert it: `iconv -t UTF-8 questions.txt | tinyv chat PICTURE`",
            ) from error
        if not question:
            continue
        is_picture = names_picture(question)
        if (is_picture or question.startswith("/")) and not was_noted:
            way_out = "name the picture at the start: `tinyv chat PICTURE`"
            way_out = way_out if is_picture else "commands are for a terminal"
            console.write_note(f"'{to_shown(question)}' is asked; {way_out}")
            was_noted = True
        n_turns = len(conversation.turns)
        try:
            conversation.ask(question, lambda _: None)
        finally:  # also after a Ctrl-C
            answer = conversation.answer
            if len(conversation.turns) > n_turns and answer is not None:
                if to_document is not None:
                    console.write_json(to_document(question, answer))
                else:
                    console.write_line(" ".join(answer.text.splitlines()))
                    if answer.finish_reason == "length":
                        n = answer.usage.completion_tokens
                        console.write_note(f"an answer was cut after {n} tokens, see `-n` and `-c`")
