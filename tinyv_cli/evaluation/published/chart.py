"""Scores become a picture: a bar a rule, with its interval and the paper's figure."""

from PIL import Image, ImageDraw, ImageFont

from tinyv_cli.evaluation.published.report import Scored

_LEFT, _TOP, _WIDTH, _ROW, _RIGHT, _BOTTOM = 130, 44, 400, 30, 60, 44  # pixels
_BAR_PX = 14
_INK, _GRID, _BAR, _SPREAD, _PAPER = "#303030", "#d8d8d8", "#9db4c8", "#1f4e79", "#b03030"
_FULL = 100.0  # per cent; MME's sums go beyond
_N_GRID = 4


def draw_scores(scored: Scored) -> Image.Image:
    """Draws a bar for each rule that has a score; the axis begins at 0.

    Returns:
        A picture of mode RGB.
    """
    scores = {rule: score for rule, score in scored.scores.items() if score is not None}
    height = _TOP + _ROW * len(scores) + _BOTTOM
    chart = Image.new("RGB", (_LEFT + _WIDTH + _RIGHT, height), "white")
    draw = ImageDraw.Draw(chart)
    font = ImageFont.load_default(12)
    full = max(_FULL, *(score.value for score in scores.values()))
    bottom = height - _BOTTOM

    def to_x(value: float) -> float:
        return _LEFT + _WIDTH * value / full

    title = f"{scored.benchmark.name}, {len(scored.records)} questions"
    draw.text((_LEFT, 12), title, _INK, ImageFont.load_default(15))
    for i in range(_N_GRID + 1):
        x = to_x(full * i / _N_GRID)
        draw.line((x, _TOP, x, bottom), _GRID)
        draw.text((x, bottom + 6), f"{full * i / _N_GRID:.0f}", _INK, font, anchor="mt")
    for i, (rule, score) in enumerate(scores.items()):
        y = _TOP + _ROW * i + _ROW // 2
        draw.text((_LEFT - 8, y), rule, _INK, font, anchor="rm")
        draw.rectangle((to_x(0), y - _BAR_PX // 2, to_x(score.value), y + _BAR_PX // 2), _BAR)
        if score.low is not None and score.high is not None:
            draw.line((to_x(score.low), y, to_x(score.high), y), _SPREAD, 3)
        published = scored.find_published(rule)
        if published is not None:
            x = to_x(published)
            draw.line((x, y - _ROW // 2, x, y + _ROW // 2), _PAPER, 2)
        shown = f"{score.value:.1f}"
        draw.text((_LEFT + _WIDTH + 8, y), shown, _INK, font, anchor="lm")
    return chart
