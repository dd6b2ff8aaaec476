"""A conversation of typed entries, without a terminal."""

import pytest

from tinyv_cli.chat import terminal
from tinyv_cli.commands import chat as chat_module
from tinyv_cli.options.chat import ChatArguments


@pytest.fixture
def hold(place, toys, monkeypatch, capsys):
    """Holds a conversation of these entries, then leaves by Ctrl-D; returns stdout and stderr."""
    monkeypatch.setattr(chat_module, "is_terminal", lambda _: True)
    monkeypatch.setenv("TERM", "xterm")

    def hold(*entries, picture="cat.png", **arguments):
        waiting = iter(entries)

        def read():
            entry = next(waiting, EOFError())
            if isinstance(entry, BaseException):
                raise entry
            return entry

        monkeypatch.setattr(terminal, "make_reader", lambda: read)
        defaults = {"model": "bits4", "device": "cpu"}
        chat_module.hold_conversation(ChatArguments(picture=picture, **defaults | arguments))
        return capsys.readouterr()

    return hold
