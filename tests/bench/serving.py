"""What `tinyv serve` takes of an answer's time, and what hours of use leave of it; run by hand.

`python -m tests.bench.serving speed|clients|soak|many [NUMBER]` prints one JSON document: the times
beside a session's own, those of many clients, eight clients of every kind for so many seconds, and
so many requests in a row. `peer URL [SECONDS]` asks another server as `clients` asks this one.
`speed NUMBER TIMES NAME LETTERS` computes each step so many times, as long as a larger network
would take, and asks that variant for texts of so many letters.
"""

import json
import random
import statistics
import sys
import tempfile
import threading
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.light.serving.served import PICTURES, QUESTIONS, ask_of, serve

CHAT = "/v1/chat/completions"


def make_schema(n_letters):
    """A JSON Schema whose document holds one text of so many letters."""
    text = {"type": "string", "minLength": n_letters, "maxLength": n_letters}
    properties = {"properties": {"a": text}, "required": ["a"], "additionalProperties": False}
    return {"type": "object", **properties}


def ask_for(n_letters):
    """What a chat completion asks for such a document with."""
    form = {"name": "long", "schema": make_schema(n_letters)}
    return {"response_format": {"type": "json_schema", "json_schema": form}, "max_tokens": 1000}


N_LETTERS = 900
SHORT = "what is this?"


def connect(url):
    """A connection that costs next to nothing: httpx takes 2 ms more a question."""
    parts = urlsplit(url)
    return closing(HTTPConnection(parts.hostname, parts.port, timeout=120))


def stream(connection, body):
    """Asks; returns the text, the seconds to the first token and to the end, and the tokens."""
    content = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}})
    started, first, text, n_tokens = time.perf_counter(), None, "", 0
    connection.request("POST", CHAT, content, {"content-type": "application/json"})
    for line in connection.getresponse():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise RuntimeError(event["error"]["message"])
        piece = event["choices"][0]["delta"].get("content") if event["choices"] else None
        if piece:
            first = first or time.perf_counter() - started
            text, n_tokens = text + piece, n_tokens + 1
        if event.get("usage"):  # without it, as from the peer, each piece is a token
            n_tokens = event["usage"]["completion_tokens"]
    total = time.perf_counter() - started
    return text, first or total, total, n_tokens


def slow_down(times):
    """Lets the decoder of this process compute each step so many times, to the same end."""
    from tinyv_cli.backends.cpu import onnx_decoder

    once = onnx_decoder._BoundGraph.run
    onnx_decoder._BoundGraph.run = lambda graph: [once(graph) for _ in range(times)]


SLOWED = "import sys\nfrom tests.bench.serving import slow_down\nslow_down({})\n"
SLOWED += "from tinyv_cli.app import main\nsys.exit(main(sys.argv[1:]))"


def measure_speed(folder, n=25, times=1, name="miniature", n_letters=N_LETTERS):
    """The same answers through a session in this process and through a server, in turn."""
    from tinyv_cli.answers.constrained import make_schema_grammar
    from tinyv_cli.backends.backend import BackendOptions
    from tinyv_cli.engine import Demand, find_variant, plan_engine
    from tinyv_cli.pictures.image import read_picture, to_pixels
    from tinyv_cli.session import AnswerOptions

    found = find_variant(name)
    engine = plan_engine(found, BackendOptions(device="cpu"), Demand(), lambda _: None)
    firsts, rates = {"session": [], "server": []}, {"session": [], "server": []}

    def ask(session, options):
        session.show_pixels(pixels)
        session.look()
        started, first = time.perf_counter(), None
        for _piece in (reply := session.ask(SHORT, options)):
            first = first or time.perf_counter() - started
        total, n_tokens = time.perf_counter() - started, reply.answer.usage.completion_tokens
        return reply.answer.text, first or total, total, n_tokens

    slow_down(times)
    program = ("-c", SLOWED.format(times))
    words = ["--device", "cpu", "-m", name]
    with serve(folder, *words, program=program) as served, engine.open() as opened:
        pixels = to_pixels(read_picture(PICTURES["cat"]), found.image_px)
        grammar = make_schema_grammar(opened.tokenizer, json.dumps(make_schema(n_letters)))
        asked = [(ask_of("cat", SHORT, max_tokens=12), AnswerOptions(12))]
        asked += [
            (ask_of("cat", SHORT, **ask_for(n_letters)), AnswerOptions(1000, grammar=grammar))
        ]
        session = opened.start_session()
        for body, options in (asked[:1] * 4 + asked[1:]) * n:
            rows = {"session": ask(session, options)}
            with connect(served.url) as connection:
                connection.connect()
                rows["server"] = stream(connection, body)
            assert rows["session"][0] == rows["server"][0]
            for who, (_, first, total, n_tokens) in rows.items():
                if body is asked[0][0]:
                    firsts[who].append(1000 * first)
                else:
                    rates[who].append((n_tokens - 1) / (total - first))
    figures = {who: [round(statistics.median(each[3:]), 2)] for who, each in firsts.items()}
    for who, each in rates.items():
        figures[who].append(round(statistics.median(each[1:]), 1))
    ratio = statistics.median(
        theirs / ours for ours, theirs in zip(rates["session"], rates["server"], strict=True)
    )
    return {
        "first_token_ms, tokens_a_second": figures,
        "first_token_more_ms": round(figures["server"][0] - figures["session"][0], 2),
        "decoding_ratio": round(ratio, 3),
    }


def ask_together(url, n_clients, seconds, make_body):
    """Lets clients ask for some seconds; returns times to the first token, and rates."""
    firsts, n_tokens, until = [], [0], time.monotonic() + seconds

    def ask(seed):
        choose = random.Random(seed)
        with connect(url) as connection:
            while time.monotonic() < until:
                _, first, _, n = stream(connection, make_body(choose))
                firsts.append(first)
                n_tokens[0] += n

    run_all([lambda seed=seed: ask(seed) for seed in range(n_clients)])
    cuts = statistics.quantiles(firsts, n=100)
    return {
        "answers": len(firsts),
        "answers_a_second": round(len(firsts) / seconds, 1),
        "tokens_a_second": round(n_tokens[0] / seconds, 1),
        **{f"p{p}_ms": round(1000 * cuts[p - 1], 1) for p in (50, 95, 99)},
    }


def measure_clients(folder, seconds=10):
    """Times to the first token, by clients at once and by answers at once."""
    table = {}
    for parallel in (1, 8):
        with serve(folder, "--parallel", str(parallel), "--queue", "64") as served:
            for n_clients in (1, 4, 8, 16):
                figures = ask_together(
                    served.url, n_clients, seconds, lambda choose: ask_of(*choose.choice(QUESTIONS))
                )
                table[f"{n_clients} clients, --parallel {parallel}"] = figures
    return table


def measure_peer(url, seconds=10):
    """The same of another server that speaks OpenAI's words, about no picture."""

    def make_body(choose):
        question = f"{choose.randrange(10**6)} what is this?"
        return ask_of(None, question, max_tokens=12, temperature=0)

    return {f"{n} clients": ask_together(url, n, seconds, make_body) for n in (1, 4, 8, 16)}


def soak(folder, seconds=600):  # noqa: PLR0915 - one run, from its beginning to its figures
    """Eight clients of every kind; the growth of the process, and every wrong answer or error."""
    expected, wrong, counts = {}, [], {}
    with serve(folder, "--queue", "64") as served:
        process = psutil.Process(served.process.pid)
        with connect(served.url) as connection:
            for name, question in QUESTIONS:
                expected[name, question] = stream(connection, ask_of(name, question))[0]
        until = time.monotonic() + seconds

        def ask(seed):
            choose = random.Random(seed)
            with served.client() as client:
                while time.monotonic() < until:
                    kind = choose.choice(("stream", "whole", "leave", "broken", "slow", "large"))
                    counts[kind] = counts.get(kind, 0) + 1
                    try:
                        problem = one(client, kind, *choose.choice(QUESTIONS))
                    except Exception as error:  # noqa: BLE001 - counted
                        problem = f"{kind}: {error!r}"
                    if problem:
                        wrong.append(problem)

        def one(client, kind, name, question):
            body = ask_of(name, question)
            if kind == "stream":
                with connect(served.url) as connection:
                    text = stream(connection, body)[0]
            elif kind == "whole":
                text = client.post(CHAT, json=body).json()["choices"][0]["message"]["content"]
            elif kind == "leave":
                long = {**body, **ask_for(N_LETTERS), "stream": True}
                with client.stream("POST", CHAT, json=long) as response:
                    next(response.iter_lines())
                return None
            elif kind == "broken":
                body["messages"][0]["content"][0]["image_url"]["url"] = "data:image/png;base64,aGk="
                response = client.post(CHAT, json=body)
                return None if response.status_code == 400 else f"broken: {response.status_code}"
            elif kind == "slow":
                content = json.dumps(body).encode()
                half = len(content) // 2

                def halves():
                    yield content[:half]
                    time.sleep(0.3)
                    yield content[half:]

                answer = client.post(CHAT, content=halves()).json()
                text = answer["choices"][0]["message"]["content"]
            else:
                body["metadata"] = {"x": "y" * 30_000_000}
                answer = client.post(CHAT, json=body).json()
                text = answer["choices"][0]["message"]["content"]
            right = text == expected[name, question]
            return None if right else f"{kind}: {text!r}"

        samples = []

        def watch():
            while time.monotonic() < until:
                memory = process.memory_info().rss / 1e6
                samples.append((memory, process.num_fds(), process.num_threads()))
                time.sleep(1)

        run_all([watch, *(lambda seed=seed: ask(seed) for seed in range(8))])
        time.sleep(3)
        rest = (process.memory_info().rss / 1e6, process.num_fds(), process.num_threads())
        code = served.end()
    memory = [each[0] for each in samples]
    first, last = memory[60:90] or memory[:10], memory[-30:]
    return {
        "asked": counts,
        "wrong": wrong[:20],
        "n_wrong": len(wrong),
        "rss_mb_after_a_minute": round(statistics.median(first), 1),
        "rss_mb_at_the_end": round(statistics.median(last), 1),
        "rss_mb_by_half_minute": [round(each) for each in memory[::30]],
        "at_rest": [round(rest[0], 1), *rest[1:]],
        "most_descriptors": max(each[1] for each in samples),
        "exit_code": code,
    }


def measure_many(folder, n=10_000):
    """Many requests in a row; descriptors and threads before and after."""
    with serve(folder) as served:
        process = psutil.Process(served.process.pid)

        def count():
            return process.num_fds(), process.num_threads(), process.memory_info().rss // 1_000_000

        with served.client() as client:
            for _ in range(50):
                client.post(CHAT, json=ask_of("cat", "what is this?"))
            before, started = count(), time.perf_counter()
            for i in range(n):
                if i % 10 == 9:
                    with served.client() as other:
                        other.get("/api/tags")
                client.post(CHAT, json=ask_of("cat", "what is this?", max_tokens=1))
            elapsed = time.perf_counter() - started
            return {"before": before, "after": count(), "requests_a_second": round(n / elapsed, 1)}


def run_all(tasks):
    threads = [threading.Thread(target=task) for task in tasks]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


if __name__ == "__main__":
    measures = {"speed": measure_speed, "clients": measure_clients, "soak": soak}
    measures |= {"many": measure_many}
    name, *rest = sys.argv[1:]
    if name == "peer":
        found = measure_peer(rest[0], *map(int, rest[1:]))
    else:
        with tempfile.TemporaryDirectory() as home:
            words = [int(each) if each.isdigit() else each for each in rest]
            found = measures[name](Path(home), *words)
    print(json.dumps(found, indent=1))  # noqa: T201
