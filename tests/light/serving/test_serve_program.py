"""The process: starting, ending, leaving clients, a full queue, several and changing variants."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from tests.demo import DEMO
from tests.light.real_variant import copy_variant, read_manifest, write_manifest
from tests.light.serving.served import (
    LONG,
    ROOT,
    ask_of,
    ask_ollama,
    read_events,
    serve,
    wait_until,
)

CHAT = "/v1/chat/completions"
FORM = {"type": "json_schema", "json_schema": {"name": "long", "schema": LONG}}

TEXT = {"type": "string", "minLength": 300, "maxLength": 900}
THING = {"type": "object", "properties": {"a": TEXT}, "required": ["a"]}
THING |= {"additionalProperties": False}
MEDIUM = {"type": "json_schema", "json_schema": {"name": "medium", "schema": THING}}


def ask_long(**options):
    """A question whose answer takes seconds."""
    long = {"response_format": FORM, "max_tokens": 1900, "temperature": 1, "seed": 5}
    return ask_of("cat", "what is this?", **long, **options)


def run(*words, **variables):
    own = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "tinyv_cli", "serve", *words]
    return subprocess.run(
        command, env=own, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )


def test_others_may_ask_only_with_a_key_or_where_it_is_said_aloud(tmp_path):
    done = run("--host", "0.0.0.0", TINYV_HOME=str(tmp_path))
    assert done.returncode == 2
    assert "--no-auth" in done.stderr
    (tmp_path / "keys").write_text("\n")
    done = run("--api-key-file", str(tmp_path / "keys"), TINYV_HOME=str(tmp_path))
    assert done.returncode == 3
    with serve(tmp_path, "--host", "0.0.0.0", "--no-auth", is_ready=False):
        pass


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--port", "99999"], 5),
        (["--host", "192.0.2.1", "--no-auth"], 5),
        (["--keep-alive", "soon"], 2),
        (["--allow-origin", "*"], 2),
        (["--api-key-file", "nowhere"], 3),
        (["-m", "nothing"], 4),
        (["--memory-budget", "20MB"], 5),
    ],
)
def test_what_cannot_be_served_ends_with_its_exit_code(tmp_path, words, code):
    done = run("--port", "0", *words, TINYV_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (code, "")
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("--port", str(taken.getsockname()[1]), TINYV_HOME=str(tmp_path))
    assert done.returncode == 5
    assert "--port" in done.stderr


def test_help_needs_nothing_of_the_extra_and_its_want_is_told(tmp_path):
    code = "import sys; sys.modules['starlette'] = None\nfrom tinyv_cli.app import main\n"
    code += "sys.exit(main(sys.argv[1:]))"
    own = {**os.environ, "PYTHONPATH": str(ROOT), "TINYV_HOME": str(tmp_path)}
    for words, expected in ((["--help"], 0), (["serve", "--help"], 0), (["serve"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            env=own,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expected, done.stderr
    assert "pip install 'tinyv[serve]'" in done.stderr


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_answer(tmp_path, stream):
    with serve(tmp_path) as served:
        for _ in range(2):
            if stream:
                leave(served, ask_long(stream=True), after_s=0.2)
                continue
            with pytest.raises(httpx.ReadTimeout), served.client() as client:
                client.post(CHAT, json=ask_long(), timeout=httpx.Timeout(10, read=0.3))
        # Nobody may be running yet when the second has left before it was begun.
        wait_until(lambda: served.count("tinyv_dropped_by_client_total") == 2, 10)
        wait_until(lambda: served.count("tinyv_running") == 0, 3)
        with served.client() as client:
            answer = client.post(CHAT, json=ask_of("cat", "what is this?")).json()
            assert answer["choices"][0]["message"]["content"] == "a cat"
        served.wait_for(rf"POST {CHAT} (499|200)")
        assert served.end() == 0


def test_a_full_queue_is_told_in_the_status_of_each_dialect_and_lists_answer_meanwhile(tmp_path):
    with serve(tmp_path, "--queue", "2") as served, served.client() as client:
        with keep_asking(served, 5):

            def is_refused():
                response = client.post(CHAT, json=ask_of("cat", "what is this?"))
                if response.status_code == 429:
                    assert response.json()["error"]["code"] == "queue_full"
                    assert int(response.headers["retry-after"]) >= 1
                return response.status_code == 429

            wait_until(is_refused)
            body = ask_ollama("cat", "what is this?")
            wait_until(lambda: client.post("/api/generate", json=body).status_code == 503)
            for path in (
                "/api/tags",
                "/v1/models",
                "/health",
                "/metrics",
                "/api/version",
                "/ready",
            ):
                started = time.monotonic()
                assert client.get(path).status_code == 200
                assert time.monotonic() - started < 3
        wait_until(lambda: served.count("tinyv_running") == 0)
        assert served.count("tinyv_queue_length") == 0


@contextmanager
def keep_asking(served, n_askers):
    """Has so many clients ask, each again as soon as it was answered or refused, until the end."""
    is_over = threading.Event()

    def ask():
        with served.client() as client:
            while not is_over.is_set():
                with client.stream("POST", CHAT, json=ask_long(stream=True)) as response:
                    for _ in response.iter_lines():
                        if is_over.is_set():
                            break
                is_over.wait(0.02)

    askers = [threading.Thread(target=ask) for _ in range(n_askers)]
    for each in askers:
        each.start()
    try:
        yield
    finally:
        is_over.set()
        for each in askers:
            each.join()


def leave(served, body, after_s=1.5):
    """Asks, and leaves before the answer has ended."""
    with served.client() as client, client.stream("POST", CHAT, json=body) as response:
        until_s = time.monotonic() + after_s
        for _ in response.iter_lines():
            if time.monotonic() > until_s:
                return


def test_what_programs_ask_for_themselves_waits_for_people(tmp_path):
    order = []

    def ask(served, name, body):
        with served.client() as client:
            client.post(CHAT, json=body)
        order.append(name)

    with serve(tmp_path) as served:
        others = []
        with keep_asking(served, 1):
            wait_until(lambda: served.count("tinyv_running") == 1)
            task = ask_of(None, "### Task:\nname this chat", max_tokens=5)
            person = ask_of("cat", "what is this?")
            for i, each in enumerate([("task", task), ("person", person)], 1):
                others.append(threading.Thread(target=ask, args=(served, *each)))
                others[-1].start()
                wait_until(lambda n=i: served.count("tinyv_queue_length") == n)
        for each in others:
            each.join()
    assert order == ["person", "task"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_answers_end_and_refuses_new_ones(tmp_path, number):
    with serve(tmp_path, "--grace", "20") as served, served.client() as client:
        body = {**ask_long(stream=True), "response_format": MEDIUM}
        with client.stream("POST", CHAT, json=body) as response:
            lines = response.iter_lines()
            next(lines)
            served.process.send_signal(number)
            served.wait_for("ending")
            with served.client() as other:
                assert other.get("/ready").status_code == 503
                assert other.get("/health").status_code == 200
                assert other.post(CHAT, json=ask_of("cat", "what is this?")).status_code == 503
            rest = list(lines)
        assert rest[-2] == "data: [DONE]"
        assert '"finish_reason": "length"' in rest[-4] or '"finish_reason": "stop"' in rest[-4]
        assert served.process.wait(20) == (0 if number == signal.SIGTERM else 130)


def test_an_answer_that_outlasts_the_grace_ends_with_an_error(tmp_path):
    with serve(tmp_path, "--grace", "0.2") as served, served.client() as client:
        with client.stream("POST", CHAT, json=ask_long(stream=True)) as response:
            next(lines := response.iter_lines())
            served.process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-2] == "data: [DONE]"
        assert "shutting down" in json.loads(rest[-4].removeprefix("data: "))["error"]["message"]
        assert served.process.wait(20) == 0


def test_a_second_signal_ends_at_once(tmp_path):
    with (
        serve(tmp_path, "--grace", "60") as served,
        served.client() as client,
        client.stream("POST", CHAT, json=ask_long(stream=True)) as response,
    ):
        next(response.iter_lines())
        served.process.send_signal(signal.SIGTERM)
        served.wait_for("ending")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(5) == 0


def test_several_variants_answer_by_name_within_one_budget(tmp_path):
    for name in ("one", "two"):
        copy_variant(tmp_path / "variants" / name)
    words = ["-m", "one", "--memory-budget", "700MB"]
    with serve(tmp_path, *words) as served, served.client() as client:
        names = [each["id"] for each in client.get("/v1/models").json()["data"]]
        assert names == ["one", "two", "miniature"]
        for name in ("two", "one:latest", "two", "miniature"):
            body = ask_of("cat", "what is this?", model=name)
            answer = client.post(CHAT, json=body).json()
            assert answer["choices"][0]["message"]["content"] == "a cat"
        loaded = client.get("/api/ps").json()["models"]
        assert sum(each["size"] for each in loaded) <= 700e6
        assert "miniature:latest" in {each["name"] for each in loaded}


def test_models_that_do_not_fit_together_take_turns(tmp_path):
    for name in ("one", "two"):
        copy_variant(tmp_path / "variants" / name)
    with serve(tmp_path, "-m", "one") as served, served.client() as client:
        (loaded,) = client.get("/api/ps").json()["models"]
    budget = f"{int(1.5 * loaded['size'])}B"
    with serve(tmp_path, "-m", "one", "--memory-budget", budget) as served:
        leaver = threading.Thread(
            target=leave, args=(served, {**ask_long(stream=True), "model": "one"})
        )
        leaver.start()
        wait_until(lambda: served.count("tinyv_running") == 1)
        with served.client() as client:  # waits until the other one is free
            body = ask_of("cat", "what is this?", model="two")
            answer = client.post(CHAT, json=body).json()
            assert answer["choices"][0]["message"]["content"] == "a cat"
            assert [e["name"] for e in client.get("/api/ps").json()["models"]] == ["two:latest"]
        leaver.join()


def test_an_unused_model_is_closed_and_opened_again(tmp_path):
    with serve(tmp_path, "--keep-alive", "300ms") as served, served.client() as client:
        wait_until(lambda: not client.get("/api/ps").json()["models"])
        assert client.get("/ready").status_code == 200
        answer = client.post(CHAT, json=ask_of("cat", "what is this?")).json()
        assert answer["choices"][0]["message"]["content"] == "a cat"


def test_a_variant_that_was_damaged_is_told_and_one_made_anew_is_taken(tmp_path):
    folder = copy_variant(tmp_path / "variants" / "mine")
    manifest = read_manifest(folder)
    with serve(tmp_path, "-m", "mine") as served, served.client() as client:
        content = (folder / "tokenizer.json").read_bytes()
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer.json").write_bytes(content.replace(b'"the"', b'"THE"'))
        wait_until(lambda: client.get("/ready").status_code == 503)
        response = client.post(CHAT, json=ask_of("cat", "what is this?"))
        assert response.status_code == 503
        assert str(tmp_path) not in response.text
        assert client.get("/health").status_code == 200
        served.wait_for("mine cannot be loaded")
        (folder / "tokenizer.json").write_bytes(content)
        write_manifest(folder, {**manifest, "made_by": "somebody else"})
        wait_until(lambda: client.get("/ready").status_code == 200)
        answer = client.post(CHAT, json=ask_of("cat", "what is this?")).json()
        assert answer["choices"][0]["message"]["content"] == "a cat"
        (folder / "manifest.json").unlink()
        wait_until(lambda: client.get("/ready").status_code == 503)
        assert client.post(CHAT, json=ask_of("cat", "what?")).status_code == 503


def test_several_answers_at_once_do_not_disturb_one_another(tmp_path):
    questions = [
        ("cat", "what is this?", "a cat"),
        ("car-and-tree", "[refer] where is the red car?", 0),
    ]
    with serve(tmp_path, "--parallel", "4") as served, served.client() as client:
        alone = [
            client.post(CHAT, json=ask_of(name, question)).json()["choices"][0]["message"][
                "content"
            ]
            for name, question, _ in questions
        ]
        assert alone[0] == "a cat"
        found = {}

        def ask(i):
            name, question, _ = questions[i % 2]
            with served.client() as own:
                events = read_events(own.post(CHAT, json=ask_of(name, question, stream=True)))
            deltas = [each["choices"][0]["delta"].get("content", "") for each in events[:-1]]
            found[i] = "".join(deltas)

        askers = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
        for each in askers:
            each.start()
        for each in askers:
            each.join()
        assert found == {i: alone[i % 2] for i in range(12)}


def test_a_folder_may_be_named_that_has_a_name_already(tmp_path):
    with serve(tmp_path, "-m", str(DEMO / "variant")) as served, served.client() as client:
        answer = client.post(CHAT, json=ask_of("cat", "what is this?")).json()
        assert answer["choices"][0]["message"]["content"] == "a cat"
        assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["miniature"]


def test_a_folder_elsewhere_is_served_under_its_own_name(tmp_path):
    copy_variant(tmp_path / "elsewhere" / "mine")
    words = ["-m", str(tmp_path / "elsewhere" / "mine")]
    with serve(tmp_path / "home", *words) as served, served.client() as client:
        names = [each["id"] for each in client.get("/v1/models").json()["data"]]
        assert names == ["mine", "miniature"]
        answer = client.post(CHAT, json=ask_of("cat", "what is this?")).json()
        assert answer["choices"][0]["message"]["content"] == "a cat"
        assert answer["model"] == "mine"
