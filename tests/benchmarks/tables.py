"""A report as a table: for a terminal, or as Markdown to paste into docs/performance.md."""

from results import Report, Sample, Scenario, spread

FORMS = {"files": ".2f", "ids": ".4f", "starts": ".0f"}
HEADINGS = ("", "a second", "CPU ms each", "peak RSS MB", "first row's rate to it", "first row's CPU to it", "")


def cells(scenario: Scenario, row: str) -> tuple[str, ...]:
    """One row, in the order of `HEADINGS`."""
    samples = scenario.rows[row]
    costs = all(sample.cpu and sample.done for sample in samples)
    seconds = spread([sample.wall for sample in samples])
    rates = spread([sample.rate for sample in samples])
    rate, cpu = scenario.ratio(row, lambda sample: sample.rate), scenario.ratio(row, lambda sample: sample.cpu_ms)
    pace = (
        seconds.text(".2f") + " s" if scenario.unit == "starts" else rates.text(",.0f" if rates.median >= 10 else ".2f")
    )
    return (
        row,
        pace if all(sample.complete for sample in samples) else "",
        spread([sample.cpu_ms for sample in samples]).text(FORMS[scenario.unit]) if costs else "",
        f"{max(sample.peak_mb for sample in samples):,.0f}" if costs else "",
        f"{rate.text('.2f')}" if rate else "",
        f"{cpu.text('.2f')}" if cpu else "",
        remark(samples),
    )


def remark(samples: list[Sample]) -> str:
    """What else there is to know of a row."""
    said = []
    short = [sample for sample in samples if not sample.complete]
    if short:
        done = spread([sample.done for sample in short]).text(",.0f")
        said.append(f"in {len(short)} of {len(samples)} runs not complete: {done} of {short[0].asked:,}")
    if any(sample.refused for sample in samples):
        refused = spread([100 * sample.refused / (sample.done + sample.refused) for sample in samples]).text(".1f")
        said.append(f"{refused}% of the requests for links refused")
    return "; ".join(said)


def heading(scenario: Scenario) -> str:
    """Title and rounds, and whether the server was the limit."""
    rounds = len(scenario.first)
    said = f"{scenario.title}; {rounds} round{'s' if rounds > 1 else ''}"
    if scenario.server_cpu_ms:
        said += f"; {scenario.server} takes {scenario.server_cpu_ms:.2f} CPU ms a file"
    return said


def as_text(report: Report) -> str:
    """Columns, for a terminal."""
    lines = []
    for scenario in report.scenarios:
        rows = [HEADINGS, *(cells(scenario, row) for row in scenario.rows)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
        lines += ["", heading(scenario)]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += ["", *(f"{name}: {value}" for name, value in report.machine.items())]
    lines += [f"not measured: {name}: {reason}" for name, reason in report.missing.items()]
    return "\n".join(lines)


def as_markdown(report: Report) -> str:
    """One table, with a row for each scenario's heading, and a line for the machine and for what is missing."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    for scenario in report.scenarios:
        lines.append(f"| **{heading(scenario)}** |" + " |" * (len(HEADINGS) - 1))
        lines += ["| " + " | ".join(cells(scenario, row)) + " |" for row in scenario.rows]
    machine = "; ".join(f"{name}: {value}" for name, value in report.machine.items())
    lines += ["", f"Measured on: {machine}."]
    if report.missing:
        lines += ["", "Not measured: " + "; ".join(f"{name}: {why}" for name, why in report.missing.items()) + "."]
    return "\n".join(lines)
