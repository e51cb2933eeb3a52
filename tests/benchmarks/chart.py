"""A report as a chart: files a second and CPU milliseconds a file, in a block for each scenario.

It brings its own background and follows the reader's preference for light or dark, so it is readable as an image on
any page.
"""

from collections.abc import Callable
from xml.sax.saxutils import escape

from clients import OURS
from results import Report, Sample, Scenario, Spread, spread

CHARTED = ("disk-30kb", "disk-150kb", "disk-5mb", "null-s3-150kb", "seaweedfs-150kb", "latency-50-32")
"""The scenarios that are worth a picture; what a report lacks is left out."""

WIDTH, LEFT, ROW, BAR = 900, 24, 24, 14
LABELS = 170
RATE_AT, RATE_WIDTH = LEFT + LABELS, 270
CPU_AT, CPU_WIDTH = 590, 170
TOP, BLOCK_HEAD, BLOCK_GAP, BOTTOM = 84, 26, 18, 40

_STYLE = """
  svg { color-scheme: light dark }
  text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328 }
  .page { fill: #ffffff }  .title { font-size: 18px; font-weight: 600 }  .head { font-weight: 600 }
  .quiet { fill: #59636e; font-size: 12px }  .ours-name { font-weight: 600 }
  .ours { fill: #0969da }  .peer { fill: #9aa4af }  .get { fill: #d1d7dd }
  .whisker { stroke: #1f2328; stroke-width: 1.2; fill: none }  .rule { stroke: #d1d9e0 }
"""
_DARK = """
  text { fill: #f0f6fc }  .page { fill: #0d1117 }  .quiet { fill: #9198a1 }
  .ours { fill: #4493f8 }  .peer { fill: #6e7681 }  .get { fill: #3d444d }
  .whisker { stroke: #f0f6fc }  .rule { stroke: #3d444d }
"""


def as_svg(report: Report) -> str:
    """The whole chart; blocks in the order of `CHARTED`."""
    named = {scenario.name: scenario for scenario in report.scenarios}
    blocks = [named[name] for name in CHARTED if name in named]
    body, y = [], TOP
    for scenario in blocks:
        body.append(_block(scenario, y))
        y += BLOCK_HEAD + ROW * len(scenario.rows) + BLOCK_GAP
    style = _STYLE + "@media (prefers-color-scheme: dark) {" + _DARK + "}\n"
    foot = "A bar is the median of all rounds, the line across it reaches from the least to the most."
    drawn = [
        _text(LEFT, 34, "bulkfetch beside its peers", "title"),
        _text(LEFT, 56, "Pale bars get their links ready-made: they fetch, but ask for no link (no PUT).", "quiet"),
        _text(RATE_AT, TOP - 6, "files a second: longer is better", "quiet"),
        _text(CPU_AT, TOP - 6, "CPU ms a file: shorter is better", "quiet"),
        *body,
        _text(LEFT, y + 14, foot, "quiet"),
    ]
    height = y + BOTTOM
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="Files a second and CPU of bulkfetch and its peers">\n<style>{style}</style>\n'
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _block(scenario: Scenario, y: int) -> str:
    drawn = [
        f'<line class="rule" x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{y + 2}" y2="{y + 2}"/>',
        _text(LEFT, y + 20, scenario.title, "head"),
    ]
    rate, cpu = _series(scenario, lambda sample: sample.rate), _series(scenario, lambda sample: sample.cpu_ms)
    for number, name in enumerate(scenario.rows):
        top = y + BLOCK_HEAD + number * ROW
        ours = name == OURS
        drawn.append(_text(LEFT, top + BAR + 2, name, "ours-name" if ours else ""))
        if not all(sample.complete for sample in scenario.rows[name]):
            drawn.append(_text(RATE_AT, top + BAR + 2, "ended before all files were there", "quiet"))
            continue
        kind = "ours" if ours else "get" if "no PUT" in name else "peer"
        drawn.append(_bar(RATE_AT, top, RATE_WIDTH, rate[name], max(s.most for s in rate.values()), kind, ",.0f"))
        drawn.append(_bar(CPU_AT, top, CPU_WIDTH, cpu[name], max(s.most for s in cpu.values()), kind, ".2f"))
    return "\n".join(drawn)


def _series(scenario: Scenario, value: Callable[[Sample], float]) -> dict[str, Spread]:
    return {name: spread([value(sample) for sample in samples]) for name, samples in scenario.rows.items()}


def _bar(x: int, top: int, width: int, value: Spread, most: float, kind: str, form: str) -> str:
    end, least, longest = (x + width * part / most for part in (value.median, value.least, value.most))
    middle, low, high = top + 4 + BAR / 2, top + 8, top + BAR
    return (
        f'<rect class="{kind}" x="{x}" y="{top + 4}" width="{end - x:.1f}" height="{BAR}" rx="2"/>'
        f'<path class="whisker" d="M{least:.1f} {middle}H{longest:.1f}'
        f'M{least:.1f} {low}V{high}M{longest:.1f} {low}V{high}"/>'
        + _text(longest + 8, top + BAR + 2, f"{value.median:{form}}")
    )


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}>{escape(text)}</text>'
