"""A number of threads becomes the rate at which this machine reads memory with them."""

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np

from tinyv_cli.benchmark.spread import Clock, Spread, make_spread, to_rate

# More than any cache holds: 1.1 GB is the largest of 2024's servers, and 256 MB came out of theirs
# at twice the speed of the memory.
ARRAY_BYTES = 2_400_000_000
_SHARE_OF_FREE = 4  # at most a quarter of the free memory is taken
_SMALLEST_BYTES = 8_000_000
_N_PASSES = 7
_BYTES_PER_GB = 1e9


def choose_array_bytes(free_bytes: int) -> int:
    """Chooses how large an array to read: `ARRAY_BYTES`, or less where memory is scarce.

    Args:
        free_bytes: memory that can be had without swapping.

    Returns:
        A multiple of 8.
    """
    size_bytes = min(ARRAY_BYTES, max(_SMALLEST_BYTES, free_bytes // _SHARE_OF_FREE))
    return size_bytes // 8 * 8


def measure_bandwidth(threads: int, size_bytes: int, clock: Clock = perf_counter) -> Spread:
    """Measures how fast memory is read, in GB (10⁹ bytes) a second.

    Each thread adds up a part of one float32 array, whose bits are taken for whole numbers.

    Args:
        threads: that read at the same time, at least 1.
        size_bytes: of the array, a multiple of 8.
        clock: returns the time in seconds.

    Returns:
        The spread of several passes. What disturbs a pass only slows it down, so `max` is what the
        machine can do.
    """
    # Ones are written, so that every page is there; zeros would all be one page. They are read as
    # whole numbers, since summing float32 is bound by adding: 8.5 GB/s on one thread, against 11.4
    # of the same bytes as int64 (2 cores of a Xeon, both busy; 64 MB). `np.dot` reads as fast
    # (12.1), but brings its own library's threads. `np.sum` lets other threads run meanwhile:
    # one made 50,000 steps during a sum of 0.04 s.
    array = np.ones(size_bytes // 4, np.float32).view(np.int64)
    parts = np.array_split(array, threads)
    rates = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_N_PASSES):
            started = clock()
            list(pool.map(np.sum, parts))
            rates.append(to_rate(size_bytes / _BYTES_PER_GB, clock() - started))
    return make_spread(rates)
