"""A server as a process of its own, with the miniature, on a port that is free."""

import base64
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.demo import DEMO

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = DEMO / "examples"
PICTURES = {path.stem: path.read_bytes() for path in EXAMPLES.glob("*.png")}
ENCODED = {name: base64.b64encode(content).decode() for name, content in PICTURES.items()}
URLS = {name: f"data:image/png;base64,{content}" for name, content in ENCODED.items()}
# A question that is answered at length: a schema that asks for a long text.
LONG = {"type": "object", "properties": {"a": {"type": "string", "minLength": 2000}}}
LONG |= {"required": ["a"]}
QUESTIONS = [
    ("cat", "what is this?"),
    ("cat", "[caption] describe this image."),
    ("three-apples", "[caption] describe this image."),
    ("three-apples", "[vqa] how many apples are there?"),
    ("car-and-tree", "[refer] where is the red car?"),
    ("breakfast", "[grounding] describe this image in detail"),
]


class Served:
    def __init__(self, process, lines, key=None):
        self.process, self.lines = process, lines
        self.url = None
        self.headers = {"authorization": f"Bearer {key}"} if key else {}

    def wait_for(self, pattern, timeout_s=60):
        """Waits for a line of the log; returns its match."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found
            if self.process.poll() is not None and not self.reader.is_alive():
                break
            time.sleep(0.02)
        raise AssertionError(f"no line {pattern!r} in:\n" + "".join(self.lines))

    def client(self, **options):
        options = {"headers": self.headers, "timeout": 60, "trust_env": False, **options}
        return httpx.Client(base_url=self.url, **options)

    def count(self, name):
        """Reads a number of its metrics."""
        with self.client() as client:
            lines = client.get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))

    def end(self, number=signal.SIGTERM, timeout_s=30):
        """Sends a signal, and returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(timeout_s)
        self.reader.join(5)
        return code


@contextmanager
def serve(home, *words, is_ready=True, is_logged=True, program=("-m", "tinyv_cli"), **variables):
    """Starts a server; what is left of it is killed at the end.

    Args:
        is_logged: whether its log says where it answers, and `is_ready` when it does.
    """
    own = {key: each for key, each in os.environ.items() if not key.startswith("TINYV_")}
    own |= {"TINYV_HOME": str(home), "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, *program, "serve", "--port", "0", *words]
    process = subprocess.Popen(
        command, cwd=ROOT, env=own, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    served = Served(process, [], variables.get("TINYV_API_KEY"))
    served.reader = threading.Thread(target=lambda: served.lines.extend(process.stderr))
    served.reader.start()
    try:
        if is_logged:
            port = served.wait_for(r"answering on http://\S+:(\d+)")[1]
            served.url = f"http://127.0.0.1:{port}"
        if is_logged and is_ready:
            served.wait_for(r"is ready")
        yield served
    finally:
        process.kill()
        process.wait()
        served.reader.join(5)
        process.stderr.close()


def wait_until(check, timeout_s=20):
    until_s = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def ask_of(name, question, **options):
    """The body of a chat completion about one of the examples."""
    parts = [{"type": "image_url", "image_url": {"url": URLS[name]}}] if name else []
    parts.append({"type": "text", "text": question})
    return {"messages": [{"role": "user", "content": parts}], **options}


def ask_ollama(name, question, **options):
    """The body of a generate about one of the examples."""
    return {"prompt": question, "images": [ENCODED[name]], "stream": False, **options}


def read_events(response):
    """The documents of an event stream, without its comments; `[DONE]` as it is."""
    import json

    found = []
    for block in response.text.split("\n\n"):
        data = "".join(line[6:] for line in block.split("\n") if line.startswith("data: "))
        if data:
            found.append(data if data == "[DONE]" else json.loads(data))
    return found
