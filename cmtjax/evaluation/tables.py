"""Tables of results over several runs: means with standard errors as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

#: What a table shows where a run has no value.
MISSING = "–"
#: Metrics beside each other in one LaTeX tabular: what fits the width of a page.
_LATEX_COLUMNS = 5
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LATEX_CHARACTERS = {
    **{character: rf"\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "−": "$-$"},
    "ε": r"$\varepsilon$",
}


class Estimate(NamedTuple):
    """Mean of a metric over independent runs.

    Attributes:
      mean: over the runs.
      standard_error: of the mean, from the spread between runs; None for one run.
      num_runs: how many runs have the metric.
      resolution: unit of the last digit, for values that were rounded when they were published.
    """

    mean: float
    standard_error: float | None
    num_runs: int
    resolution: float | None = None


class Column(NamedTuple):
    """How a table shows a metric.

    Attributes:
      metric: its name in ``summary.json``, in whose unit every ``Estimate`` is.
      title: head of the column, with the unit.
      scale: what a value is multiplied with in Markdown and LaTeX; 100 shows a fraction in percent.
      significant_digits: of a value that comes without a standard error.
    """

    metric: str
    title: str
    scale: float = 1.0
    significant_digits: int = 4


class TableRow(NamedTuple):
    """A group of runs, or a published result.

    Attributes:
      system: what was sampled.
      method: title of the method.
      detail: what tells the row from others of the same method: settings, or where it was published; may be empty.
      num_runs: independent runs behind the row.
      estimates: metric name to its value; a missing name is shown as missing.
    """

    system: str
    method: str
    detail: str
    num_runs: int
    estimates: Mapping[str, Estimate]


#: The columns of CMT's Tables 1, 2, 3 and 5, and ESS without clipping.
DEFAULT_COLUMNS = (
    Column("target_evaluations", "target evaluations", significant_digits=3),
    Column("wall_clock_hours", "wall clock (h)", significant_digits=3),
    Column("ess", "ESS (%)", 100.0),
    Column("ess_raw", "ESS unclipped (%)", 100.0),
    Column("elbo", "ELBO (nats)", significant_digits=6),
    Column("log_z", "log Z", significant_digits=7),
    Column("eubo", "EUBO (nats)", significant_digits=6),
    Column("nll", "NLL (nats)", significant_digits=6),
    Column("ram_kl", "Ram KL (nats)", significant_digits=3),
    Column("ram_kl_reweighted", "Ram KL reweighted (nats)", significant_digits=3),
    Column("ram_tv", "Ram TV (%)", 100.0, significant_digits=3),
    Column("ram_tv_reweighted", "Ram TV reweighted (%)", 100.0, significant_digits=3),
    Column("ram_tw2", "torus W2 (rad)", significant_digits=3),
)
#: Metrics over the truth's frames, and the share of these that the flow's box does not hold.
_FORWARD_METRICS = ("eubo", "nll")
_SHARE_OUTSIDE = Column("share_outside_domain", "outside (%)", 100.0, significant_digits=2)

_METHOD_TITLES = {
    "cmt": "CMT",
    "ta_bg": "TA-BG",
    "fab": "FAB",
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "fab_real_nvp": "FAB (Real NVP)",
    "pis": "PIS",
    "dds": "DDS",
    "idem": "iDEM",
}


def columns(metrics: Sequence[str]) -> tuple[Column, ...]:
    """Columns of named metrics; ``"default"`` stands for all of ``DEFAULT_COLUMNS``.

    Args:
      metrics: names as in ``summary.json``. A name without a column of its own gets one that shows it as it is.

    Returns:
      The columns in the order asked for, each once.
    """
    known = {column.metric: column for column in DEFAULT_COLUMNS}
    names = [name for metric in metrics for name in (known if metric == "default" else [metric])]
    return tuple(known.get(name, Column(name, name)) for name in dict.fromkeys(names))


def method_title(name: str, *, has_trust_region: bool = True, has_entropy_bound: bool = True) -> str:
    """How tables and figures call a method, with the bounds that are switched off (CMT, Table 3).

    Args:
      name: ``config.method.name``.
      has_trust_region: whether CMT's trust-region bound is on; of no meaning for other methods.
      has_entropy_bound: whether CMT's entropy bound is on.
    """
    title = _METHOD_TITLES.get(name, name)
    if name != "cmt" or (has_trust_region and has_entropy_bound):
        return title
    return f"{title}, " + (
        "trust region only" if has_trust_region else "entropy bound only" if has_entropy_bound else "no bounds"
    )


def row_label(row: TableRow) -> str:
    """Method and detail, as tables and figures show them."""
    return f"{row.method} ({row.detail})" if row.detail else row.method


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean and standard error (n − 1) over runs.

    Args:
      values: of one metric, one a run; those that are not finite count as missing.

    Returns:
      The estimate, without a standard error for a single value; None if no value is left.
    """
    array = np.array(list(values), dtype=np.float64)
    array = array[np.isfinite(array)]
    if array.size == 0:
        return None
    error = float(np.std(array, ddof=1) / math.sqrt(array.size)) if array.size > 1 else None
    return Estimate(float(array.mean()), error, array.size)


def number_text(value: float, standard_error: float | None = None, scale: float = 1.0) -> str:
    """A number as the tables write it in Markdown: to the first two digits of its error, or four of its own.

    Args:
      value: any number, also one that is not finite.
      standard_error: of the value; None, zero or one that is not finite: four significant digits, and no error.
      scale: what both are multiplied with; 100 shows a fraction in percent.

    Returns:
      Such as "−175.00942 ± 0.00014".
    """
    if not math.isfinite(value):
        return f"{value}"
    if standard_error is not None and not math.isfinite(standard_error):
        standard_error = None
    return _markdown_number(_digits(Estimate(value, standard_error, 1), Column("", "", scale)))


def to_markdown(rows: Sequence[TableRow], shown: Sequence[Column] = DEFAULT_COLUMNS) -> str:
    """A Markdown table for each system; ± is one standard error, n the number of runs that have a value.

    Where NLL or EUBO is shown, a line below the table tells the share of the truth's frames outside the flow's box, of
    the rows for which there are any.

    Args:
      rows: in the order of the table; systems in the order in which they appear.
      shown: the columns.
    """
    blocks = []
    for system, members in _by_system(rows).items():
        head = ["method", "n", *(column.title for column in shown)]
        lines = [_markdown_line(head), _markdown_line(["---", *["---:"] * (len(head) - 1)])]
        for row in members:
            cells = [_cell(row, column, _markdown_number) for column in shown]
            lines.append(_markdown_line([row_label(row), str(row.num_runs), *cells]))
        if outside := _frames_outside(members, shown, _markdown_number, str):
            lines += ["", outside]
        blocks.append("\n".join([f"### {system}", "", *lines]))
    return "\n\n".join(blocks) + "\n"


def to_csv(rows: Sequence[TableRow], shown: Sequence[Column] = DEFAULT_COLUMNS) -> str:
    """One CSV table with all digits, in the units of ``summary.json`` (ESS and TV as fractions).

    Each metric has three columns: ``<metric>``, ``<metric>_standard_error`` and ``<metric>_num_runs``. What is missing
    is empty, with 0 runs.
    """
    names = [column.metric for column in shown]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    suffixes = ("", "_standard_error", "_num_runs")
    writer.writerow(
        ["system", "method", "detail", "num_runs", *(name + suffix for name in names for suffix in suffixes)]
    )
    for row in rows:
        cells: list[object] = []
        for name in names:
            value = row.estimates.get(name)
            cells += ["", "", 0] if value is None else [value.mean, value.standard_error, value.num_runs]
        writer.writerow([row.system, row.method, row.detail, row.num_runs, *cells])
    return table.getvalue()


def to_latex(rows: Sequence[TableRow], shown: Sequence[Column] = DEFAULT_COLUMNS) -> str:
    """LaTeX tabulars for the package booktabs, with a few metrics each so that they fit a page.

    The lines that ``to_markdown`` puts below a table follow the tabular with NLL or EUBO.
    """
    tabulars = []
    for start in range(0, len(shown), _LATEX_COLUMNS):
        part = shown[start : start + _LATEX_COLUMNS]
        lines = [
            rf"\begin{{tabular}}{{ll{'r' * (len(part) + 1)}}}",
            r"\toprule",
            _latex_line(["system", "method", "$n$", *(_latex_text(column.title) for column in part)]),
        ]
        for system, members in _by_system(rows).items():
            lines.append(r"\midrule")
            for index, row in enumerate(members):
                cells = [_cell(row, column, _latex_number) for column in part]
                name = _latex_text(system) if index == 0 else ""
                lines.append(_latex_line([name, _latex_text(row_label(row)), str(row.num_runs), *cells]))
        lines += [r"\bottomrule", r"\end{tabular}"]
        for system, members in _by_system(rows).items():
            if outside := _frames_outside(members, part, _latex_number, _latex_text):
                lines.append(rf"\par {_latex_text(system)}: {outside}")
        tabulars.append("\n".join(lines))
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(tabulars) + "\n"


def _by_system(rows: Sequence[TableRow]) -> dict[str, list[TableRow]]:
    return {name: [row for row in rows if row.system == name] for name in dict.fromkeys(row.system for row in rows)}


def _frames_outside(
    rows: Sequence[TableRow],
    shown: Sequence[Column],
    write: Callable[[_Digits], str],
    write_text: Callable[[str], str],
) -> str:
    """A sentence about the truth's frames outside a flow's box where a metric is over them; empty if there are none."""
    titles = [column.title.partition(" ")[0] for column in shown if column.metric in _FORWARD_METRICS]
    shares = [
        f"{write(_digits(share, _SHARE_OUTSIDE))} {write_text(f'% for {row_label(row)}')}"
        for row in rows
        if (share := row.estimates.get(_SHARE_OUTSIDE.metric)) is not None and share.mean > 0
    ]
    if not titles or not shares:
        return ""
    return (
        f"{write_text(' and '.join(titles))} take frames of the truth outside the flow's box at its nearest point: "
        f"{'; '.join(shares)}."
    )


class _Digits(NamedTuple):
    """A number as it is written: ``mean ± error``, both times ten to the power of ``exponent``."""

    mean: str
    error: str | None
    exponent: int


def _cell(row: TableRow, column: Column, write: Callable[[_Digits], str]) -> str:
    value = row.estimates.get(column.metric)
    if value is None:
        return MISSING
    partly = f" (n={value.num_runs})" if value.num_runs != row.num_runs else ""
    return write(_digits(value, column)) + partly


def _digits(value: Estimate, column: Column) -> _Digits:
    """Rounds: to the published digits, or to the error's first two, or to the column's significant digits."""
    mean = value.mean * column.scale
    error = None if value.standard_error is None else value.standard_error * column.scale
    magnitude = math.floor(math.log10(abs(mean))) if mean else 0
    exponent = magnitude if magnitude < -2 or magnitude > 5 else 0
    if value.resolution is not None:
        last_digit = round(math.log10(value.resolution * column.scale))
    elif error:
        last_digit = math.floor(math.log10(error)) - 1
    else:
        error, last_digit = None, magnitude - column.significant_digits + 1  # of equal values, the error says nothing
    decimals = max(exponent - last_digit, 0)

    def write(number: float) -> str:
        return f"{number / 10.0**exponent:.{decimals}f}"

    return _Digits(write(mean), None if error is None else write(error), exponent)


def _markdown_number(digits: _Digits) -> str:
    text = digits.mean if digits.error is None else f"{digits.mean} ± {digits.error}"
    if digits.exponent:
        power = f"10{str(digits.exponent).translate(_SUPERSCRIPTS)}"
        text = f"{text}·{power}" if digits.error is None else f"({text})·{power}"
    return text.replace("-", "−")


def _latex_number(digits: _Digits) -> str:
    text = digits.mean if digits.error is None else rf"{digits.mean} \pm {digits.error}"
    if digits.exponent:
        power = rf"\times 10^{{{digits.exponent}}}"
        text = f"{text} {power}" if digits.error is None else f"({text}) {power}"
    return f"${text}$"


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join("--" if cell == MISSING else cell for cell in cells) + r" \\"


def _latex_text(text: str) -> str:
    return "".join(_LATEX_CHARACTERS.get(character, character) for character in text)
