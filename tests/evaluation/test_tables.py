"""Tables over runs: the statistics against SciPy, the three formats by reading them back."""

import csv
import io
import math
import re

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from cmtjax.evaluation import tables
from cmtjax.evaluation.tables import Column, Estimate, TableRow

ROWS = [
    TableRow(
        "alanine_dipeptide",
        "CMT",
        "buffer_size=10|20",
        3,
        {"ess": Estimate(0.62345, 0.0123, 3), "log_z": Estimate(-175.00951, 0.00078, 2), "nll": Estimate(0.0, None, 1)},
    ),
    TableRow(
        "my_peptide", "FAB & more", "", 1, {"ess": Estimate(0.00512, None, 1), "ram_kl": Estimate(1.5e-3, 4e-5, 1)}
    ),
    TableRow("alanine_dipeptide", "TA-BG", "published", 4, {"ess": Estimate(0.9576, 0.0013, 4, resolution=1e-4)}),
]
SHOWN = tables.columns(["ess", "log_z", "nll", "ram_kl", "eubo"])


def read_number(cell):
    """Mean, error (or None) and unit of the last digit of a cell in Markdown or LaTeX."""
    plain = cell.replace("−", "-").replace("±", r"\pm").replace("·10", r"\times 10").strip("$ ")
    plain = plain.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    match = re.fullmatch(r"\(?(-?[\d.]+)(?: \\pm ([\d.]+))?\)?(?: ?\\times 10(?:\^\{)?(-?\d+)\}?)?", plain)
    assert match, cell
    factor = 10.0 ** int(match[3] or 0)
    unit = factor * 10.0 ** -len(match[1].partition(".")[2])
    return float(match[1]) * factor, None if match[2] is None else float(match[2]) * factor, unit


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8))
def test_estimate_is_mean_and_standard_error(values):
    result = tables.estimate(values)
    # Rounding of sums of up to 8 numbers of 1e6, of which the spread may be none.
    assert result.mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-9)
    assert result.standard_error == pytest.approx(scipy.stats.sem(values), rel=1e-9, abs=1e-9)
    assert result.num_runs == len(values)


def test_estimate_of_few_values():
    assert tables.estimate([2.5]) == Estimate(2.5, None, 1)
    assert tables.estimate([]) is None
    assert tables.estimate([math.nan, math.inf]) is None
    assert tables.estimate([1.0, math.nan, 3.0]) == Estimate(2.0, 1.0, 2)  # √2/√2


@given(
    st.floats(1e-7, 1e9),
    st.sampled_from([-1.0, 1.0]),
    st.one_of(st.none(), st.floats(1e-6, 10.0)),
    st.sampled_from([1.0, 100.0]),
)
def test_numbers_read_back_to_their_last_digit(size, sign, relative_error, scale):
    error = None if relative_error is None else size * relative_error
    row = TableRow("system", "CMT", "", 4, {"x": Estimate(sign * size, error, 4)})
    shown = [Column("x", "x", scale, significant_digits=5)]
    cells = (
        tables.to_markdown([row], shown).splitlines()[4].split(" | ")[2].removesuffix(" |"),
        tables.to_latex([row], shown).splitlines()[5].split(" & ")[3].removesuffix(r" \\"),
    )
    for cell in cells:
        mean, read_error, unit = read_number(cell)
        # Half a unit is rounding; 1e-9 of it floating point.
        assert abs(mean - sign * size * scale) <= 0.5 * unit * (1 + 1e-6) + 1e-9 * size
        if error is None:
            assert read_error is None
            assert unit <= 1.001e-4 * size * scale  # five digits: a unit is at most 1e-4 of the value
        else:
            assert abs(read_error - error * scale) <= 0.5 * unit * (1 + 1e-6) + 1e-9 * error
            # Two digits of the error, unless it is so far above the mean that they are before the point.
            assert unit <= max(0.1001 * error * scale, size * scale)


def test_published_values_keep_their_digits():
    (line,) = [line for line in tables.to_markdown(ROWS, SHOWN).splitlines() if "TA-BG" in line]
    assert line == "| TA-BG (published) | 4 | 95.76 ± 0.13 | – | – | – | – |"


def test_markdown_shows_every_system_row_and_gap():
    text = tables.to_markdown(ROWS, SHOWN)
    assert re.findall("^### (.*)", text, re.MULTILINE) == ["alanine_dipeptide", "my_peptide"]
    assert "| method | n | ESS (%) | log Z | NLL (nats) | Ram KL (nats) | EUBO (nats) |" in text
    assert r"| CMT (buffer_size=10\|20) | 3 | 62.3 ± 1.2 | −175.00951 ± 0.00078 (n=2) | 0.00000 (n=1) | – | – |" in text
    assert "| FAB & more | 1 | 0.5120 | – | – | (1.500 ± 0.040)·10⁻³ | – |" in text


def test_equal_values_have_no_error_to_show():
    row = TableRow("system", "CMT", "", 2, {"target_evaluations": Estimate(1e8, 0.0, 2)})
    assert "| CMT | 2 | 1.00·10⁸ |" in tables.to_markdown([row], tables.columns(["target_evaluations"]))


def test_csv_holds_all_digits_and_gaps():
    lines = list(csv.DictReader(io.StringIO(tables.to_csv(ROWS, SHOWN))))
    for line, row in zip(lines, ROWS, strict=True):
        assert (line["system"], line["method"], line["detail"]) == (row.system, row.method, row.detail)
        assert int(line["num_runs"]) == row.num_runs
        for column in SHOWN:
            value = row.estimates.get(column.metric)
            mean, error = line[column.metric], line[f"{column.metric}_standard_error"]
            if value is None:
                assert (mean, error, line[f"{column.metric}_num_runs"]) == ("", "", "0")
            else:
                assert (float(mean), float(error) if error else None) == (value.mean, value.standard_error)
                assert int(line[f"{column.metric}_num_runs"]) == value.num_runs


def test_latex_has_whole_tabulars():
    text = tables.to_latex(ROWS, tables.columns(["default"]))
    tabulars = re.findall(r"\\begin{tabular}{(\w+)}\n\\toprule\n(.*?)\\bottomrule\n\\end{tabular}", text, re.DOTALL)
    heads = []
    for alignment, body in tabulars:
        lines = [line for line in body.splitlines() if line != r"\midrule"]
        assert body.count(r"\midrule") == 2  # one a system
        assert len(lines) == 1 + len(ROWS)
        for line in lines:
            assert line.endswith(r" \\")
            # A bare & separates; the one of "FAB & more" is escaped.
            assert len(re.findall(r"(?<!\\)&", line)) == len(alignment) - 1
            assert not re.search(r"(?<!\\)[%_#]", line)
        heads += lines[0].removesuffix(r" \\").split(" & ")[3:]
    assert [head.replace("\\", "") for head in heads] == [column.title for column in tables.DEFAULT_COLUMNS]
    assert r"$62.3 \pm 1.2$" in text
    assert r"$(1.500 \pm 0.040) \times 10^{-3}$" in text


def test_frames_outside_the_box_are_told_where_they_count():
    rows = [
        TableRow(
            "a_b", "CMT", "x=1", 2, {"nll": Estimate(-1.0, 0.1, 2), "share_outside_domain": Estimate(2e-4, 3e-5, 2)}
        ),
        TableRow(
            "a_b", "FAB", "", 1, {"nll": Estimate(-2.0, None, 1), "share_outside_domain": Estimate(1e-3, None, 1)}
        ),
        TableRow("a_b", "TA-BG", "published", 4, {"nll": Estimate(-3.0, 0.1, 4)}),
        TableRow("c", "CMT", "", 1, {"nll": Estimate(-4.0, None, 1), "share_outside_domain": Estimate(0.0, None, 1)}),
    ]
    sentence = "take frames of the truth outside the flow's box at its nearest point:"
    markdown = tables.to_markdown(rows, tables.columns(["eubo", "nll", "ess"]))
    first, second = markdown.split("### c")
    assert f"\n\nEUBO and NLL {sentence} 0.0200 ± 0.0030 % for CMT (x=1); 0.10 % for FAB.\n" in first
    assert "outside" not in second  # none are
    latex = tables.to_latex(rows, tables.columns(["nll"]))
    assert rf"\par a\_b: NLL {sentence} $0.0200 \pm 0.0030$ \% for CMT (x=1); $0.10$ \% for FAB." in latex
    assert latex.count("outside") == 1
    for write in (tables.to_markdown, tables.to_latex):
        assert "outside" not in write(
            rows, tables.columns(["ess", "log_z"])
        )  # which no frame of the truth has a part in
    # In several tabulars, it stands below the one it is about.
    tabulars = tables.to_latex(rows).split(r"\begin{tabular}")[1:]
    assert ["outside" in part for part in tabulars] == ["NLL" in part for part in tabulars]
    assert sum("outside" in part for part in tabulars) == 1


def test_columns_by_name():
    assert tables.columns(["default"]) == tables.DEFAULT_COLUMNS
    assert tables.columns(["my_metric", "ess", "my_metric"]) == (
        Column("my_metric", "my_metric"),
        tables.DEFAULT_COLUMNS[2],
    )
    assert tables.columns(["default", "ess", "extra"])[:-1] == tables.DEFAULT_COLUMNS


def test_method_titles_tell_which_bound_is_off():
    def title(name, trust_region, entropy):
        return tables.method_title(name, has_trust_region=trust_region, has_entropy_bound=entropy)

    assert title("cmt", True, True) == "CMT"
    assert title("cmt", True, False) == "CMT, trust region only"
    assert title("cmt", False, True) == "CMT, entropy bound only"
    assert title("cmt", False, False) == "CMT, no bounds"
    assert title("ta_bg", False, False) == "TA-BG"
    assert title("something_new", True, True) == "something_new"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((-175.0094189, 0.000143875), "−175.00942 ± 0.00014"),
        ((0.0023848, 2.3e-5, 100.0), "0.2385 ± 0.0023"),
        ((0.00012345,), "1.234·10⁻⁴"),
        ((12.0, 0.0), "12.00"),
        ((12.0, math.nan), "12.00"),
        ((math.inf, 1.0), "inf"),
        ((0.0, None), "0.000"),
    ],
)
def test_numbers_are_rounded_by_their_errors(arguments, text):
    assert tables.number_text(*arguments) == text
