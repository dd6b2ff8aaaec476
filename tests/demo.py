"""Where the miniature that comes along lies in a checkout."""

from pathlib import Path

DEMO = Path(__file__).parents[1] / "weights" / "demo"
