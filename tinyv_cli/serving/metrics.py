"""What happened becomes counts, in the text that Prometheus reads; several threads count."""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import psutil

from tinyv_cli.serving.jobs import Ended
from tinyv_cli.serving.shelf import Loaded

_FIRST_TOKEN_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass
class Spent:
    """Seconds that a piece of work took, once it is done."""

    elapsed_s: float = 0.0


class Metrics:
    """Counts since the start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._totals: defaultdict[str, float] = defaultdict(float)
        self._firsts: Counter[float] = Counter()  # by upper bound, each answer once

    def count_request(self, path: str, status: int) -> None:
        """Counts a request that has its status."""
        with self._lock:
            self._requests[path, status] += 1

    def count_dropped(self) -> None:
        """Counts a question whose asker has left."""
        with self._lock:
            self._totals["dropped"] += 1

    def count_answer(self, ended: Ended) -> None:
        """Counts an answer's tokens and times."""
        answer = ended.answer
        with self._lock:
            self._totals["tokens_in"] += ended.n_prompt
            self._totals["tokens_out"] += ended.n_answer
            bounds = (each for each in _FIRST_TOKEN_BOUNDS_S if ended.first_s <= each)
            self._firsts[next(bounds, float("inf"))] += 1
            self._totals["first_s"] += ended.first_s
            if answer is not None:
                self._totals["decode_s"] += answer.timings.prefill_s + answer.timings.decode_s

    @contextmanager
    def time_encoding(self) -> Iterator[Spent]:
        """Counts the seconds of a picture's encoding."""
        started, spent = perf_counter(), Spent()
        yield spent
        spent.elapsed_s = perf_counter() - started
        with self._lock:
            self._totals["encode_s"] += spent.elapsed_s

    def write(self, n_waiting: int, n_running: int, loaded: Sequence[Loaded]) -> str:
        """Writes everything in Prometheus' text format.

        Source: Prometheus documentation, "Exposition formats", version 0.0.4.
        """
        with self._lock:
            requests, totals = dict(self._requests), dict(self._totals)
            firsts = dict(self._firsts)
        lines = ["# TYPE tinyv_requests_total counter"]
        for (path, status), count in sorted(requests.items()):
            lines.append(f'tinyv_requests_total{{path="{path}",status="{status}"}} {count}')
        for name, key in (
            ("tinyv_prompt_tokens_total", "tokens_in"),
            ("tinyv_answer_tokens_total", "tokens_out"),
            ("tinyv_encode_seconds_total", "encode_s"),
            ("tinyv_decode_seconds_total", "decode_s"),
            ("tinyv_dropped_by_client_total", "dropped"),
        ):
            lines += [f"# TYPE {name} counter", f"{name} {totals.get(key, 0):g}"]
        first = "tinyv_first_token_seconds"
        lines.append(f"# TYPE {first} histogram")
        count = 0
        for bound in (*_FIRST_TOKEN_BOUNDS_S, float("inf")):
            count += firsts.get(bound, 0)
            label = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f'{first}_bucket{{le="{label}"}} {count}')
        lines += [f"{first}_sum {totals.get('first_s', 0):g}", f"{first}_count {count}"]
        for name, value in (
            ("tinyv_queue_length", n_waiting),
            ("tinyv_running", n_running),
            ("tinyv_loaded", int(bool(loaded))),
            ("tinyv_resident_bytes", psutil.Process().memory_info().rss),
        ):
            lines += [f"# TYPE {name} gauge", f"{name} {value}"]
        return "\n".join([*lines, ""])
