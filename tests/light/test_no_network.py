"""Nothing that is typed or imported turns to another computer, or writes beside its own folder.

Seen in: onnxruntime, pull request 27379 (from 1.29 on its first import writes a device id and looks
up a collector ten seconds later); immich 3.3.6. `CI=true` hides it, so the programs here have an
environment of their own. They run at the same time, and live on until its timer must have gone off.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.demo import DEMO
from tests.light.toy_variant import write_variant
from tests.watched import ROOT, TIMER_S, can_trace, start_watched

CAT = str(DEMO / "examples" / "cat.png")
QUESTION = "what is this?"
LIBRARY = f"""
from PIL import Image
from tinyv_cli.backends.backend import BackendOptions
from tinyv_cli.engine import Demand, find_variant, plan_engine
import tinyv_cli.session
found = find_variant(None)
with plan_engine(found, BackendOptions(), Demand(), print).open() as opened:
    session = opened.start_session()
    session.show(Image.open({CAT!r}), found.image_px)
    print(session.ask({QUESTION!r}).finish().text)
"""
# A question by a socket alone, since whoever looks a name up is taken for one that calls.
SERVE = f"""
import base64, json, os, signal, socket, sys, threading, time
from tinyv_cli.app import main

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]

def ask():
    picture = base64.b64encode(open({CAT!r}, "rb").read()).decode()
    body = json.dumps({{"model": "miniature", "stream": False, "messages": [
        {{"role": "user", "content": {QUESTION!r}, "images": [picture]}}]}}).encode()
    while True:
        try:
            line = socket.socket()
            line.connect(("127.0.0.1", port))
            break
        except ConnectionRefusedError:
            line.close()
            time.sleep(0.1)
    head = f"POST /api/chat HTTP/1.1\\r\\nHost: 127.0.0.1:{{port}}\\r\\nConnection: close\\r\\n"
    line.sendall(f"{{head}}Content-Length: {{len(body)}}\\r\\n\\r\\n".encode() + body)
    with line.makefile() as reply:
        print(reply.read(), flush=True)
    time.sleep({TIMER_S})
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=ask, daemon=True).start()
assert main(["serve", "--port", str(port)]) == 0
"""
VERBS = {
    "ask": ["ask", CAT, QUESTION, "--json"],
    "batch": ["batch", CAT, QUESTION, "-o", "answers.jsonl"],
    "eval": ["eval", "questions.jsonl", "--json"],
    "bench": ["bench", "--repeats", "1", "--json"],
    "doctor": ["doctor"],
    "list": ["list"],
    "show": ["show"],
    "rm": ["rm", "toy", "--yes"],
    "pull a variant": ["pull", str(DEMO / "variant"), "--to", "mine"],
    "push": ["push", "miniature", "pushed"],
    "pull from a folder": ["pull", "--from", "."],
    "quantize what is not there": ["quantize", "--sources", "nowhere"],
    "help": ["--help"],
    "version": ["--version"],
    "completion": ["--show-completion", "bash"],
    "a slip": ["aks"],
    "library": ["-c", LIBRARY],
    "serve": ["-c", SERVE],
}
FAIL = {"pull from a folder": 4, "quantize what is not there": 4, "a slip": 2}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """All of them after their end; the conversation waits for a next question all the while."""
    folder = tmp_path_factory.mktemp("watched")
    names = ["chat", *VERBS]
    for name in names:
        (folder / name / "work").mkdir(parents=True)
    write_variant(folder / "rm" / "tinyv" / "variants" / "toy")
    line = {"picture": CAT, "task": "what", "question": QUESTION, "answer": "a cat"}
    (folder / "eval" / "work" / "questions.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
    chat = start_watched(folder / "chat", "chat", CAT, alive_s=0)
    assert chat.process.stdin is not None
    chat.process.stdin.write(f"{QUESTION}\n")
    chat.process.stdin.flush()
    others = {
        name: start_watched(folder / name, *words, alive_s=TIMER_S) for name, words in VERBS.items()
    }
    ended = {name: (each, *each.end()) for name, each in others.items()}
    return {"chat": (chat, *chat.end()), **ended}


@pytest.mark.parametrize("name", ["chat", *VERBS])
def test_a_verb_turns_to_nobody_and_writes_nothing_of_the_runtimes_maker(watched, name):
    if name.startswith("quantize") and find_spec("torch") is None:
        pytest.skip("without torch that is what `tinyv quantize` tells first")
    program, code, said = watched[name]
    # typer looks for a shell among the processes above, and some test runs have none.
    if not (name == "completion" and "Shell" in said):
        assert code == FAIL.get(name, 0), said
    assert program.list_calls() == []
    assert program.list_left() == []


@pytest.mark.parametrize("verb", ["ask", "chat", "batch", "library", "serve"])
def test_what_was_watched_did_answer(watched, verb):
    program, _, said = watched[verb]
    answers = program.folder / "work" / "answers.jsonl"
    assert "cat" in (answers.read_text("utf-8") if verb == "batch" else said)


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 9))",
        "import socket; socket.getaddrinfo('192.0.2.1', 9)",
    ],
)
def test_a_program_that_turns_to_another_computer_is_noticed(tmp_path, code):
    program = start_watched(tmp_path, "-c", code, alive_s=0)
    assert program.end()[0] == 0
    assert program.list_calls()


@pytest.mark.skipif(not can_trace(), reason="strace is not there, or may not trace")
def test_a_call_past_python_is_noticed(tmp_path):
    code = """
import ctypes
libc = ctypes.CDLL(None)
address = bytes([2, 0, 0, 9, 192, 0, 2, 1]) + bytes(8)
libc.connect(libc.socket(2, 2, 0), address, len(address))
"""
    program = start_watched(tmp_path, "-c", code, alive_s=0)
    assert program.end()[0] == 0
    assert any("192.0.2.1" in call for call in program.list_calls())


def test_a_file_left_behind_is_noticed(tmp_path):
    code = "from pathlib import Path; (Path.home() / '.cache').mkdir()"
    program = start_watched(tmp_path, "-c", code, alive_s=0)
    assert program.end()[0] == 0
    assert program.list_left() == ["user/.cache"]


@pytest.mark.parametrize("chosen", [None, "0"])
def test_the_runtime_finds_its_switch_set_as_the_user_set_it_or_off(tmp_path, chosen):
    runtime = tmp_path / "onnxruntime"
    (runtime / "capi").mkdir(parents=True)
    switch = "import os\nprint(os.environ['ORT_DISABLE_TELEMETRY'])\n"
    (runtime / "__init__.py").write_text(switch, "utf-8")
    (runtime / "capi" / "onnxruntime_pybind11_state.py").touch()
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    environment |= {"ORT_DISABLE_TELEMETRY": chosen} if chosen else {}
    words = [sys.executable, "-c", "import tinyv_cli.backends.cpu.quiet_onnxruntime"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{chosen or 1}\n"
