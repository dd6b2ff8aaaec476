"""What goes wrong around a server while it answers: it is killed, its disk is full, its files are
changed under it, memory is short, its worker dies. What is told, what goes on, how it ends."""

import json
import platform
import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.bench.serving import connect, soak
from tests.light.real_variant import copy_variant
from tests.light.serving.served import ask_of, serve, wait_until
from tests.light.serving.test_serve_program import CHAT, ask_long

CAT = ask_of("cat", "what is this?")
NO_FILES = "import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
DEADLY = """import sys
from tinyv_cli.serving.shelf import OpenModel
whole = OpenModel.begin
def begin(self, job, slot):
    if job.prepared.asked.question == "die":
        raise SystemExit
    return whole(self, job, slot)
OpenModel.begin = begin
"""
SHORT = """import sys
import tinyv_cli.serving.shelf as shelf
from tinyv_cli.errors import DeviceError
plan = shelf.plan_engine
def plan_engine(found, *rest):
    if found.variant.name == "large":
        raise DeviceError("the computer has 8 GB free, large needs 900 GB", "close programs")
    return plan(found, *rest)
shelf.plan_engine = plan_engine
"""
RUN = "from tinyv_cli.app import main\nsys.exit(main(sys.argv[1:]))\n"


def is_a_cat(client, **options):
    answer = client.post(CHAT, json={**CAT, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"] == "a cat"


def list_files(folder):
    return {str(each.relative_to(folder)) for each in folder.rglob("*")}


def test_after_a_kill_in_mid_answer_the_next_server_takes_the_same_port(tmp_path):
    with serve(tmp_path) as served, served.client() as client:
        left = list_files(tmp_path)
        with client.stream("POST", CHAT, json=ask_long(stream=True)) as response:
            lines = response.iter_lines()
            next(lines)
            assert served.end(signal.SIGKILL) == -signal.SIGKILL
            with pytest.raises(httpx.TransportError):
                list(lines)
    assert list_files(tmp_path) == left
    port = served.url.rpartition(":")[2]
    with serve(tmp_path, "--port", port) as again, again.client() as client:
        assert again.url == served.url
        assert is_a_cat(client)


def test_where_nothing_can_be_written_it_answers(tmp_path):
    with serve(tmp_path / "home", program=("-c", NO_FILES + RUN)) as served:
        with served.client() as client:
            assert is_a_cat(client)
            assert client.get("/ready").status_code == 200
        assert served.end() == 0
        assert "Traceback" not in "".join(served.lines)


def test_a_log_that_cannot_be_written_keeps_nobody_from_answers(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    full = "import os, sys\nos.dup2(os.open('/dev/full', os.O_WRONLY), 2)\n"
    words = ["--port", str(port)]
    with (
        serve(tmp_path, *words, program=("-c", full + RUN), is_logged=False) as served,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client,
    ):

        def is_ready():
            try:
                return client.get("/ready").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_ready, 60)
        assert is_a_cat(client)
        assert served.end() == 0


def test_weights_damaged_in_place_are_told_and_whole_ones_answer_again(tmp_path):
    folder = copy_variant(tmp_path / "variants" / "mine")
    largest = max(folder.iterdir(), key=lambda each: each.stat().st_size)
    content = largest.read_bytes()
    largest.unlink()
    largest.write_bytes(content)
    with serve(tmp_path, "-m", "mine") as served, served.client() as client:

        def damage(place, piece):
            with largest.open("r+b") as file:
                file.seek(place)
                file.write(piece)

        half = len(content) // 2
        damage(half, bytes(255 - each for each in content[half : half + 4096]))
        wait_until(lambda: client.get("/ready").status_code == 503)
        refused = client.post(CHAT, json=CAT)
        assert refused.status_code == 503
        assert "its files cannot be used" in refused.json()["error"]["message"]
        assert client.get("/health").status_code == 200
        assert is_a_cat(client, model="miniature")
        served.wait_for(rf"mine cannot be loaded: .*{largest.name}")
        damage(half, content[half : half + 4096])
        wait_until(lambda: client.get("/ready").status_code == 200)
        assert is_a_cat(client)


def test_a_variant_that_is_removed_and_put_back_answers_again(tmp_path):
    folder = copy_variant(tmp_path / "variants" / "mine")
    with serve(tmp_path, "-m", "mine") as served, served.client() as client:
        shutil.rmtree(folder)
        wait_until(lambda: client.get("/ready").status_code == 503)
        for body in (CAT, {**CAT, "model": "mine:latest"}):
            refused = client.post(CHAT, json=body)
            assert refused.status_code == 503
            assert "gone" in refused.json()["error"]["message"]
        assert is_a_cat(client, model="miniature")
        copy_variant(folder)
        wait_until(lambda: client.get("/ready").status_code == 200)
        assert is_a_cat(client)
        assert "Traceback" not in "".join(served.lines)


def test_a_model_too_large_for_the_memory_is_refused_and_the_other_goes_on(tmp_path):
    for name in ("small", "large"):
        copy_variant(tmp_path / "variants" / name)
    words = ["-m", "small"]
    with serve(tmp_path, *words, program=("-c", SHORT + RUN)) as served:
        with served.client() as client:
            for _ in range(2):
                refused = client.post(CHAT, json={**CAT, "model": "large"})
                assert refused.status_code == 503
                assert "memory does not suffice" in refused.json()["error"]["message"]
                assert int(refused.headers["retry-after"]) > 0
                assert client.get("/ready").status_code == 200
                assert is_a_cat(client)
        served.wait_for(r"large cannot be loaded: .*900 GB")


def test_a_worker_that_dies_is_told_and_ends_the_process(tmp_path):
    with serve(tmp_path, program=("-c", DEADLY + RUN)) as served, served.client() as client:
        assert is_a_cat(client)
        asked = time.monotonic()
        with client.stream("POST", CHAT, json=ask_of("cat", "die", stream=True)) as response:
            assert response.status_code == 503
            assert "shutting down" in response.read().decode()
        assert served.process.wait(20) == 5
        assert time.monotonic() - asked < 15
        served.wait_for("the worker died")
        served.wait_for("error: the thread that computes has died")


def test_eight_clients_of_every_kind_each_hear_what_they_should(tmp_path):
    """Streams, whole answers, clients that leave, broken pictures, slow and large bodies."""
    found = soak(tmp_path, 5)
    assert found["wrong"] == []
    assert sum(found["asked"].values()) >= 8
    assert found["at_rest"][1] < 16
    assert found["exit_code"] == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_large_bodies_leave_no_memory_behind(tmp_path):
    with serve(tmp_path) as served, served.client() as client:
        body = {**CAT, "metadata": {"x": "y" * 30_000_000}}
        assert is_a_cat(client)
        process = psutil.Process(served.process.pid)
        before = process.memory_info().rss
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: client.post(CHAT, json=body), range(8)))
        assert {each.status_code for each in answers} == {200}
        wait_until(lambda: process.memory_info().rss < before + 40e6)


def test_a_connection_is_kept_longer_than_clients_keep_theirs(tmp_path):
    with serve(tmp_path) as served, connect(served.url) as connection:
        for wait_s in (0, 5.5):
            time.sleep(wait_s)
            connection.request("GET", "/health")
            assert json.load(connection.getresponse())["status"] == "ok"
