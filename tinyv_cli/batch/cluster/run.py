"""Rows go to the workers of a Ray cluster, and their lines come back as they are made.

What Ray does by itself and nobody asked for is put right here: reports to its makers, a dashboard,
lines on stdout, a token in the home folder, a start that attaches to what another run left.
"""

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.data import ActorPoolStrategy, DataContext

from tinyv_cli.batch.cluster.captioner import Captioner, CaptionOptions
from tinyv_cli.batch.cluster.lines import to_lines
from tinyv_cli.batch.cluster.sources import Source
from tinyv_cli.batch.cluster.units import PendingRows
from tinyv_cli.errors import DeviceError, TinyvError
from tinyv_cli.prompts.tasks import Question

LOCAL = "local"

_SESSIONS = "tinyv-ray-"  # short, and in /tmp: a socket's path has 107 bytes at most
_REACHED_WITHIN_S = 10.0
_ENDS_WITHIN_S = 2.0
_STORE_BYTES = 200 << 20  # of shared memory on this machine; only small rows pass through it
# Some eight lines, so that they come soon; a block costs some 50 ms, however small.
_BLOCK_BYTES = 1024
_MOST_ROWS = 32  # of a unit: what a killed worker has to answer again, at most
_UNITS_EACH = 4  # at least as many units for each worker, so that none is long idle at the end
_MOST_DEATHS = 20  # of the workers that had one unit
_AHEAD = 2  # units that a worker has: one it answers, one that waits


@dataclass(frozen=True)
class Cluster:
    """Where workers run, and what each of them takes.

    Attributes:
        address: of a cluster's head; `local` starts one on this machine, for this run alone.
        n_workers: as many as are wanted.
        resources: what Ray keeps for each, as `map_batches` takes it.
    """

    address: str
    n_workers: int
    resources: dict[str, float]


def answer_rows(
    cluster: Cluster,
    source: Source,
    pending: Collection[str],
    captioner: tuple[str | None, Question, CaptionOptions],
) -> Generator[dict[str, Any]]:
    """Starts or joins a cluster, asks about rows, yields their lines, and leaves nothing running.

    Args:
        cluster: where.
        source: of all rows.
        pending: names of those that are asked about.
        captioner: the arguments of `Captioner`.

    Raises:
        DeviceError: the cluster is too small or cannot be reached, or workers die again and again.
        TinyvError: a worker's own, as where its variant is missing.
    """
    with start_ray(cluster):
        check_room(cluster)
        n_rows = max(1, min(_MOST_ROWS, len(pending) // (_UNITS_EACH * cluster.n_workers)))
        rows = PendingRows(source, pending, n_rows)
        read = ray.data.read_datasource(
            rows,
            override_num_blocks=len(rows),
            # A reader is a process that takes seconds to start; words need one, bytes more.
            concurrency=min(cluster.n_workers, len(rows)) if source.groups else 1,
            num_cpus=0,  # else readers wait for a CPU that workers hold, without a word
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # there is no other way to say it
            answered = read.map_batches(
                Captioner,
                fn_constructor_args=captioner,
                batch_size=n_rows,
                compute=ActorPoolStrategy(
                    size=cluster.n_workers, max_tasks_in_flight_per_actor=_AHEAD
                ),
                max_task_retries=_MOST_DEATHS,
                **cluster.resources,
            )
        try:
            for table in answered.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                yield from to_lines(table)
        except (ray.exceptions.RayError, RuntimeError) as error:
            raise _to_planned(error) from error


@contextmanager
def start_ray(cluster: Cluster) -> Iterator[None]:
    """Starts Ray on this machine, or joins a cluster; ends or leaves it at the end.

    Of one on this machine nothing is left, whatever ends the run: its processes die with this one.

    Raises:
        DeviceError: the cluster cannot be reached.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it writes to stderr
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # What workers die of would else be printed to stdout, whatever is said of logs.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    folder = None
    if cluster.address == LOCAL:
        # Else Ray makes one and leaves it in the user's home.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        # As on systems without clusters: else the name 127.0.0.1 is replaced by an outer address.
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
        folder = _make_session_folder()
        memory = cluster.resources.get("memory", 0) * cluster.n_workers
        options |= {
            "num_cpus": round(cluster.resources["num_cpus"] * cluster.n_workers) + 1,
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
            # More than workers take, which was checked before: else Ray's readers wait for it.
            "_memory": round(2 * memory) + _STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": str(folder),
        }
    try:
        try:
            host, _, port = cluster.address.rpartition(":")
            if port.isdecimal() and "://" not in host:  # else Ray tries for many minutes
                socket.create_connection((host, int(port)), _REACHED_WITHIN_S).close()
            with _mute_stderr():
                ray.init(cluster.address, **options)
        except Exception as error:  # a plain one is what Ray raises, too
            raise DeviceError(
                f"no Ray cluster answers at {cluster.address}: {str(error).splitlines()[0][:200]}",
                "name its head as `--cluster HOST:6379`, or start Ray here: `--cluster local`",
            ) from error
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = _BLOCK_BYTES
        context.max_consecutive_actor_init_deaths = _MOST_DEATHS
        # Ray's own writes a stack trace, and leaves its processes to be killed.
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
    finally:
        end_ray(folder)


def end_ray(folder: Path | None) -> None:
    """Leaves a cluster; of one that was started here, with this folder, ends every process."""
    started = [] if folder is None else psutil.Process().children(recursive=True)
    ray.shutdown()
    # Where Ctrl-C came while Ray started, its agents would stay up to a minute.
    for each in psutil.wait_procs(started, _ENDS_WITHIN_S)[1]:
        with suppress(psutil.Error):
            each.kill()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _mute_stderr() -> Iterator[None]:
    """Sends to nowhere what libraries write to stderr past Python."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _make_session_folder() -> Path:
    """Makes a folder for Ray's sockets and logs; removes those of runs that were killed."""
    root = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    for left in root.glob(f"{_SESSIONS}*"):
        number = left.name.removeprefix(_SESSIONS).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_SESSIONS}{os.getpid()}-", dir=root))


def check_room(cluster: Cluster) -> None:
    """Checks that a cluster has what its workers take.

    Raises:
        DeviceError: not all of them fit at once.
    """
    there = ray.cluster_resources()
    for key, name in (("num_cpus", "CPU"), ("memory", "memory"), ("num_gpus", "GPU")):
        each = cluster.resources.get(key, 0)
        if each and there.get(name, 0) < each * cluster.n_workers:
            n_fitting = int(there.get(name, 0) // each)
            raise DeviceError(
                f"{cluster.n_workers} workers need {each * cluster.n_workers:g} of {name}, the "
                f"cluster has {there.get(name, 0):g}",
                f"take fewer: `--workers {max(1, n_fitting)}`, or fewer threads: `-t 1`",
            )


def describe_stall(cluster: Cluster) -> str:
    """Describes why nothing may be coming: what is free, and what a worker needs."""
    with suppress(Exception):
        free, there = ray.available_resources(), ray.cluster_resources()
        n_cpus = cluster.resources["num_cpus"]
        if there.get("CPU", 0) < n_cpus * cluster.n_workers:
            return f"the cluster has lost machines: {there.get('CPU', 0):g} CPUs are left"
        if free.get("CPU", 0) >= n_cpus + 1:
            return "a worker is starting again, or died; its machine may be short of memory"
    return "workers are at it: a slow store, a picture that takes long, or a machine that swaps"


def _to_planned(error: Exception) -> TinyvError:
    """Finds the planned failure that made a worker fail, or says what Ray says."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(cause, TinyvError):
            return cause
        cause = inner
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = next(
        (line for line in reversed(lines) if "tinyv_cli" in line), lines[-1] if lines else ""
    )
    return DeviceError(
        f"the workers failed: {said.strip()[:300]}",
        "what was answered is kept; the same command goes on; fewer `--workers` need less memory",
    )
