"""`llm`, by its command line: with its plugin for Ollama, and with an entry of its own."""

import gc
import json
import signal
import subprocess
import sys
from base64 import b64decode

import jsonschema
import pytest

from tests.light.serving.clients.asking import (
    AS_THEY_COME,
    BROKEN,
    KEY,
    NAME,
    QUESTION,
    SCHEMA,
    leaving,
)
from tests.light.serving.served import EXAMPLES, LONG

pytestmark = AS_THEY_COME


class TestLlm:
    """`llm` by its command line, with its plugin for Ollama and with an entry of its own.

    It runs in this process, but where it is left: starting it takes two seconds.
    """

    MODELS = ("tinyv", "ollama/miniature:latest")

    @pytest.fixture(params=MODELS)
    def model(self, request):
        return request.param

    @pytest.fixture
    def llm(self, keyed, tmp_path, monkeypatch):
        pytest.importorskip("llm")
        pytest.importorskip("llm_ollama")
        from click.testing import CliRunner
        from llm.cli import cli

        entry = "- {{model_id: {}, model_name: {}, api_base: {}/v1, api_key_name: tinyv, "
        entry += "vision: true, supports_schema: true}}\n"
        names = {"tinyv": "miniature", "absent": "llava"}.items()
        text = "".join(entry.format(*pair, keyed.url) for pair in names)
        folder = tmp_path / "llm"
        folder.mkdir(exist_ok=True)
        (folder / "extra-openai-models.yaml").write_text(text)
        monkeypatch.setenv("OLLAMA_HOST", keyed.url)

        def run(*words):
            return CliRunner().invoke(cli, words)

        for alias in ("tinyv", "ollama"):
            assert run("keys", "set", alias, "--value", KEY).exit_code == 0
        yield run
        gc.collect()  # it leaves its connections open

    def ask(self, llm, model, *words):
        return llm("-m", model, "-a", str(EXAMPLES / f"{NAME}.png"), QUESTION, *words)

    def test_it_asks_and_goes_on(self, llm, model, expected):
        assert model in llm("models").stdout
        for words in ([], ["--no-stream"]):
            assert self.ask(llm, model, *words).stdout.strip() == expected
        done = llm("-c", "[vqa] how many apples are there?")
        assert done.exit_code == 0, done.output
        assert done.stdout.strip()

    def test_it_keeps_to_a_form_and_a_stop(self, llm, model, expected):
        """A stop in Python: llm's command line has no word for the list that llm-ollama takes."""
        import llm as library

        done = self.ask(llm, model, "--schema", json.dumps(SCHEMA))
        jsonschema.validate(json.loads(done.stdout), SCHEMA)
        first, second = expected.split()[:2]
        stop = f" {second}" if model == "tinyv" else [f" {second}"]
        picture = library.Attachment(path=str(EXAMPLES / f"{NAME}.png"))
        asked = library.get_model(model).prompt(QUESTION, attachments=[picture], stop=stop)
        assert asked.text().strip() == first

    def test_it_hears_why_there_is_no_answer(self, llm, model, tmp_path):
        """llm-ollama lists what there is before it asks: llm itself tells of an unknown model."""
        broken = tmp_path / "broken.png"
        broken.write_bytes(b64decode(BROKEN))
        done = llm("-m", model, "-a", str(broken), QUESTION)
        assert (done.exit_code, "damaged" in done.stderr) == (1, True)
        done = self.ask(llm, model, "--key", "wrong")
        assert (done.exit_code, "the key is missing or wrong" in done.stderr) == (1, True)
        absent = "absent" if model == "tinyv" else "ollama/llava"
        told = "model 'llava' not found" if model == "tinyv" else "Unknown model: ollama/llava"
        done = self.ask(llm, absent)
        assert (done.exit_code, told in done.stderr) == (1, True)

    def test_it_leaves(self, llm, model, keyed):
        """As somebody who presses Ctrl-C in a terminal."""
        longest = ("max_tokens" if model == "tinyv" else "num_predict", "1900")
        words = ["-m", model, "--schema", json.dumps(LONG), "-o", *longest, "tell me"]
        program = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        program += "runpy.run_module('llm', run_name='__main__')"  # a shell's background ignores it
        command = [sys.executable, "-c", program, *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with (
            leaving(keyed),
            subprocess.Popen(command, stdin=subprocess.DEVNULL, **pipes) as process,
        ):
            assert process.stdout.read(1) == b"{"
            process.send_signal(signal.SIGINT)
            assert process.wait(20) != 0
