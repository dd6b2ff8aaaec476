"""What `tinyv serve` takes of an answer's time, and what hours of use leave of it; run by hand.

`python -m tests.bench.serving speed|clients|soak [SECONDS]` prints one JSON document.
"""

import json
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.light.serving.served import PICTURES, QUESTIONS, ask_of, serve

CHAT = "/v1/chat/completions"
LONG = {"type": "object", "properties": {"a": {"type": "string", "minLength": 900}}}
LONG |= {"required": ["a"], "additionalProperties": False}
FORM = {"type": "json_schema", "json_schema": {"name": "long", "schema": LONG}}


def stream(client, body):
    """Asks; returns the text, the seconds to the first token and to the end, and the tokens."""
    started, first, text, usage = time.perf_counter(), None, "", None
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with client.stream("POST", CHAT, json=body) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            piece = event["choices"][0]["delta"].get("content") if event["choices"] else None
            if piece:
                first = first or time.perf_counter() - started
                text += piece
            usage = event.get("usage") or usage
    return text, first, time.perf_counter() - started, usage["completion_tokens"]


def measure_speed(folder, n=25):
    """The same long answer through a session in this process and through a server, in turn."""
    from tinyv_cli.answers.constrained import make_schema_grammar
    from tinyv_cli.backends.backend import BackendOptions
    from tinyv_cli.engine import Demand, find_variant, plan_engine
    from tinyv_cli.pictures.image import read_picture, to_pixels
    from tinyv_cli.session import AnswerOptions

    found = find_variant("miniature")
    engine = plan_engine(found, BackendOptions(device="cpu"), Demand(), lambda _: None)
    figures = {"session": [], "server": []}
    server = serve(folder, "--device", "cpu")
    with server as served, served.client() as client, engine.open() as opened:
        pixels = to_pixels(read_picture(PICTURES["cat"]), found.image_px)
        grammar = make_schema_grammar(opened.tokenizer, json.dumps(LONG))
        options = AnswerOptions(max_new_tokens=400, grammar=grammar)
        session = opened.start_session()
        for _ in range(n):
            session.show_pixels(pixels)
            session.look()
            started, first = time.perf_counter(), None
            reply = session.ask("what is this?", options)
            for _piece in reply:
                first = first or time.perf_counter() - started
            total = time.perf_counter() - started
            tokens = reply.answer.usage.completion_tokens
            figures["session"].append((first, (tokens - 1) / (total - first)))
            body = ask_of("cat", "what is this?", response_format=FORM, max_tokens=400)
            text, first, total, tokens = stream(client, body)
            assert text == reply.answer.text
            figures["server"].append((first, (tokens - 1) / (total - first)))
    found = {}
    for name, rows in figures.items():
        firsts, rates = zip(*rows[3:], strict=True)
        found[name] = {
            "first_token_ms": round(1000 * statistics.median(firsts), 2),
            "tokens_a_second": round(statistics.median(rates), 1),
        }
    found["tokens"] = tokens
    return found


def measure_clients(folder, seconds=10):
    """Times to the first token, and tokens a second in all, by clients at once."""
    table = {}
    for parallel in (1, 8):
        with serve(folder, "--parallel", str(parallel), "--queue", "64") as served:
            for n_clients in (1, 4, 8, 16):
                firsts, tokens, until = [], [0], time.monotonic() + seconds

                def ask(seed, firsts=firsts, tokens=tokens, until=until):
                    choose = random.Random(seed)
                    with served.client() as client:
                        while time.monotonic() < until:
                            name, question = choose.choice(QUESTIONS)
                            _, first, total, n = stream(client, ask_of(name, question))
                            firsts.append(first or total)
                            tokens[0] += n

                run_all([lambda seed=seed: ask(seed) for seed in range(n_clients)])
                cuts = statistics.quantiles(firsts, n=100)
                table[f"{n_clients} clients, --parallel {parallel}"] = {
                    "answers": len(firsts),
                    "tokens_a_second": round(tokens[0] / seconds, 1),
                    **{f"p{p}_ms": round(1000 * cuts[p - 1], 1) for p in (50, 95, 99)},
                }
    return table


def soak(folder, seconds=600):  # noqa: PLR0915 - one run, from its beginning to its figures
    """Eight clients of every kind; the growth of the process, and every wrong answer or error."""
    expected, wrong, counts = {}, [], {}
    with serve(folder, "--queue", "64") as served:
        process = psutil.Process(served.process.pid)
        with served.client() as client:
            for name, question in QUESTIONS:
                expected[name, question] = stream(client, ask_of(name, question))[0]
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
                text = stream(client, body)[0]
            elif kind == "whole":
                text = client.post(CHAT, json=body).json()["choices"][0]["message"]["content"]
            elif kind == "leave":
                long = {**body, "response_format": FORM, "max_tokens": 1000, "stream": True}
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
    first, last = samples[60:90] or samples[:10], samples[-30:]
    return {
        "asked": counts,
        "wrong": wrong[:20],
        "n_wrong": len(wrong),
        "rss_mb_after_a_minute": round(statistics.median(each[0] for each in first), 1),
        "rss_mb_at_the_end": round(statistics.median(each[0] for each in last), 1),
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
    name, *numbers = sys.argv[1:]
    with tempfile.TemporaryDirectory() as home:
        print(json.dumps(measures[name](Path(home), *map(int, numbers)), indent=1))  # noqa: T201
