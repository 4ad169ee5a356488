"""`report.html`: the report as one self-contained page, its plots drawn by matplotlib and embedded as SVG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

INK, FAINT, BEFORE, AFTER, THIRD = "#1f2933", "#d9dee3", "#b8c1cc", "#0b7285", "#e8590c"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
REQUESTS = {"tool": ("right tool", BEFORE), "exact": ("exact call", AFTER)}
AGENTS = {"success": ("jobs done right", AFTER)}
"""What is drawn of what was live: key, name, colour."""
WINDOW = 50
"""Live answers that one point of the moving average covers; half of them where there are not twice as many."""


def render(report: dict[str, Any]) -> str:
    """The page. Nothing in it is loaded from anywhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    agents = "by_template" in report
    with plt.rc_context(STYLE):  # type: ignore[arg-type]
        plots = {
            "parts": by_template(report) if agents else by_tool(report),
            "live": live(report["live"], AGENTS if agents else REQUESTS) if report["live"] else None,
            "loss": loss(report["loss"]) if report["loss"] else None,
            "timings": timings(report),
        }
    return environment.get_template("agents.html.jinja" if agents else "report.html.jinja").render(
        report=report, plots=plots, moved=report["champion"]["before"] != report["champion"]["after"]
    )


def by_tool(report: dict[str, Any]) -> str:
    figure, axes = parts(report["by_tool"], {"tool_accuracy": "right tool", "exact_match": "exact call"})
    baseline = report["baseline_tool_accuracy"]
    axes[0].axvline(baseline, color=THIRD, linewidth=1, linestyle="--", label="naive Bayes, all tools")
    return legend(figure, axes[0])


def by_template(report: dict[str, Any]) -> str:
    figure, axes = parts(report["by_template"], {"success": "jobs done right"})
    return legend(figure, axes[0])


def parts(rows: dict[str, Any], shares: dict[str, str]) -> tuple[Figure, list[Axes]]:
    """A panel for each share, with a pair of bars for each row: before and after."""
    size = (9, 0.42 * len(rows) + 1.1)
    figure, axes = plt.subplots(1, len(shares), figsize=size, sharey=True, layout="constrained", squeeze=False)
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
    for panel, (key, title) in zip(axes[0], shares.items(), strict=True):
        for offset, when, colour in ((-0.19, "before", BEFORE), (0.19, "after", AFTER)):
            values = [row[when][key] for row in rows.values()]
            panel.barh([place + offset for place in range(len(rows))], values, height=0.36, color=colour, label=when)
        panel.set(title=title, xlim=(0, 1.02))
        panel.xaxis.set_major_formatter(PercentFormatter(1))
        quiet(panel, "x")
    axes[0][0].set_yticks(range(len(rows)), list(rows))
    axes[0][0].invert_yaxis()
    return figure, list(axes[0])


def legend(figure: Figure, panel: Axes) -> str:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return svg(figure)


def live(answers: list[dict[str, Any]], lines: dict[str, tuple[str, str]]) -> str:
    """Moving averages over what was live, in the order in which it came; a mark where the version changed."""
    window = min(WINDOW, (len(answers) + 1) // 2)
    figure, panel = plt.subplots(figsize=(9, 2.8), layout="constrained")
    for key, (label, colour) in lines.items():
        hits = [float(answer[key]) for answer in answers]
        panel.plot(range(window, len(hits) + 1), moving(hits, window), color=colour, linewidth=1.8, label=label)
    for at in range(1, len(answers)):
        if answers[at]["version"] != answers[at - 1]["version"] and answers[at]["version"]:
            panel.axvline(at, color=THIRD, linewidth=1, linestyle="--")
            panel.text(at, 1.04, f" {answers[at]['version']}", color=THIRD, ha="left", va="bottom", fontsize=9)
    panel.set(xlabel=f"live, in order (mean of the last {window})", ylim=(-0.02, 1.02), xlim=(1, max(2, len(answers))))
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.legend(frameon=False, loc="upper left")
    quiet(panel, "y")
    return svg(figure)


def loss(points: list[tuple[int, float]]) -> str:
    figure, panel = plt.subplots(figsize=(4.4, 2.8), layout="constrained")
    panel.plot([step for step, _ in points], [value for _, value in points], color=AFTER, linewidth=1.8)
    panel.set(xlabel="training step", ylabel="loss", ylim=(0, None))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    quiet(panel, "y")
    return svg(figure)


def timings(report: dict[str, Any]) -> str:
    taken = {name: seconds for name, seconds in report["timings_s"].items() if name != "total"}
    figure, panel = plt.subplots(figsize=(4.4, 0.26 * len(taken) + 0.7), layout="constrained")
    # A step of a cycle is part of the chapter in which the demo waited for it: another colour, not another stretch.
    colours = [BEFORE if "/" in name else AFTER for name in taken]
    bars = panel.barh(list(taken), list(taken.values()), color=colours)
    panel.bar_label(bars, fmt="{:.1f}", padding=3, fontsize=8)
    panel.invert_yaxis()
    panel.set(xlabel="seconds")
    panel.margins(x=0.12)
    quiet(panel, "x")
    return svg(figure)


def moving(hits: list[float], window: int) -> list[float]:
    """Mean of the last `window` values, from where there are so many."""
    return [sum(hits[at - window : at]) / window for at in range(window, len(hits) + 1)]


def quiet(panel: Axes, axis: str) -> None:
    panel.grid(axis=axis, color=FAINT, linewidth=0.6)  # type: ignore[arg-type]
    panel.set_axisbelow(True)
    panel.tick_params(length=0)


def svg(figure: Figure) -> str:
    """The figure as an inline `<svg>` element, without the XML prologue."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
