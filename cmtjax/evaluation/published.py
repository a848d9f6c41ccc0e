"""Results of the papers, to compare with: numbers as printed, converted to this package's names and units.

Sources: CMT is von Klitzing et al., *Learning Boltzmann Generators via Constrained Mass Transport*; TA-BG is Schopmans
and Friederich, *Temperature-Annealed Boltzmann Generators*. The tables below read like the papers': mean ± standard
error over independent runs, ESS and Ram TV in percent, which become fractions on reading.
"""

from __future__ import annotations

import functools
import math
import re
from typing import NamedTuple

from cmtjax.evaluation.tables import Estimate, TableRow, method_title


class PublishedResult(NamedTuple):
    """One line of one table.

    Attributes:
      paper: "CMT" or "TA-BG".
      table: number of the table in that paper.
      system: name of the molecule as of ``molecules.published``, or "gmm40".
      method: name as in a configuration's ``method.name``; for methods that this package does not have, their own.
      bounds: for CMT which bounds were on: "both", "trust_region", "entropy" or "none"; "" for other methods.
      estimates: metric name as in ``summary.json`` to its value. Beside those, the parts of ``wall_clock_hours`` are
        ``pretraining_hours`` and ``training_hours``.
    """

    paper: str
    table: int
    system: str
    method: str
    bounds: str
    estimates: dict[str, Estimate]


#: Temperature of all published metrics.
TEMPERATURE_KELVIN = 300.0

#: Printed dimension d of each system, 3N − 6: it counts constrained bonds too, so that the flow has fewer.
PUBLISHED_DIMENSIONS = {
    "alanine_dipeptide": 60,
    "alanine_tetrapeptide": 120,
    "alanine_hexapeptide": 180,
    "elil_tetrapeptide": 219,
}

#: What a reader of the published numbers has to know.
REMARKS = (
    "Published wall clock: on 4 × NVIDIA A100 with 48 CPU cores, four runs at a time (CMT, Table 5).",
    "Published Ram TV is shown as printed. With the printed Ram KL it breaks Pinsker's inequality 2 TV² ≤ KL, which "
    "holds for means too, in several rows by up to a factor of 3.1; it would not if Σ|P − Q| was printed without the "
    "½ of its definition. Compare with care.",
)

#: All independent runs of the molecules; of the Gaussian mixture, see ``_gmm_results``.
_NUM_RUNS = 4
_PERCENT = ("ess", "ess_raw", "ram_tv", "ram_tv_reweighted")

# (paper, table): text. First line: columns. A system holds for the lines below it; "." is a value that is not there.
# The last block of CMT's Table 3, printed without a name, is the hexapeptide's: its last line is that of Table 2.
_TABLES = {
    ("CMT", 1): """
        method       target_evaluations  eubo          ess          ram_tv
        [alanine_dipeptide]
        forward_kl   5e9      -174.90±0.00  82.14±0.08   2.85±0.01
        reverse_kl   2.56e8   -174.93±0.01  94.13±0.20   3.34±0.13
        fab          2.13e8   -174.97±0.00  94.81±0.04   2.55±0.02
        ta_bg        1e8      -174.99±0.00  95.76±0.13   3.07±0.14
        cmt:both     1e8      -175.00±0.00  97.67±0.03   2.34±0.00
        [alanine_tetrapeptide]
        forward_kl   4.2e9    -333.91±0.00  45.40±0.10   3.20±0.05
        reverse_kl   2.56e8   -333.03±0.12  74.81±3.76   7.78±0.07
        fab          2.13e8   -333.94±0.00  63.61±0.21   7.48±0.09
        ta_bg        1e8      -333.98±0.00  64.90±0.24   4.26±0.17
        cmt:both     1e8      -334.01±0.00  68.58±0.29   3.17±0.04
        [alanine_hexapeptide]
        forward_kl   4.2e9    -533.33±0.00  11.05±0.15   4.62±0.07
        reverse_kl   2.56e8   -529.11±0.28  21.79±1.37   20.26±1.53
        fab          4.2e8    -533.00±0.01  14.60±0.09   15.71±0.09
        ta_bg        4e8      -533.31±0.01  15.93±0.13   7.05±0.07
        cmt:both     4e8      -533.49±0.01  29.51±0.18   6.87±0.06
        [elil_tetrapeptide]
        forward_kl   4.2e9    -276.97±0.00  5.85±0.06    4.92±0.04
        reverse_kl   2.56e8   -262.78±3.50  1.28±0.52    64.59±7.07
        fab          8.43e8   -276.75±0.01  7.23±0.07    20.02±0.42
        ta_bg        8e8      -277.23±0.03  10.14±0.44   7.23±0.32
        cmt:both     8e8      -277.84±0.00  26.18±0.25   6.09±0.09
    """,
    ("CMT", 2): """
        method       target_evaluations  nll             ess          ram_kl             ram_kl_reweighted
        [alanine_dipeptide]
        forward_kl   5e9      -213.581±0.000  82.14±0.08   (2.20±0.03)e-3     (2.00±0.04)e-3
        reverse_kl   2.56e8   -213.609±0.006  94.13±0.20   (1.77±0.27)e-2     (1.65±0.29)e-2
        fab          2.13e8   -213.653±0.000  94.81±0.04   (1.52±0.03)e-3     (1.24±0.01)e-3
        ta_bg        1e8      -213.666±0.001  95.76±0.13   (1.94±0.08)e-3     (1.35±0.02)e-3
        cmt:both     1e8      -213.677±0.000  97.67±0.03   (1.48±0.01)e-3     (1.41±0.02)e-3
        [alanine_tetrapeptide]
        forward_kl   4.2e9    -330.069±0.001  45.40±0.10   (2.26±0.06)e-3     (2.49±0.05)e-3
        reverse_kl   2.56e8   -329.191±0.121  74.81±3.76   (2.95±0.36)e-1     (2.82±0.41)e-1
        fab          2.13e8   -330.100±0.002  63.61±0.21   (6.89±0.25)e-3     (1.26±0.01)e-3
        ta_bg        1e8      -330.143±0.002  64.90±0.24   (2.44±0.27)e-3     (1.72±0.08)e-3
        cmt:both     1e8      -330.167±0.002  68.58±0.29   (1.98±0.06)e-3     (1.66±0.08)e-3
        [alanine_hexapeptide]
        forward_kl   4.2e9    -501.599±0.005  11.05±0.15   (4.17±0.26)e-3     (7.74±0.09)e-3
        reverse_kl   2.56e8   -497.378±0.277  21.79±1.37   (5.39±0.38)e-1     (5.31±0.37)e-1
        fab          4.2e8    -501.268±0.008  14.60±0.09   (2.09±0.02)e-2     (1.11±0.01)e-2
        ta_bg        4e8      -501.582±0.011  15.93±0.13   (8.35±0.70)e-3     (8.19±0.56)e-3
        cmt:both     4e8      -501.760±0.009  29.51±0.18   (1.25±0.05)e-2     (1.21±0.02)e-2
        [elil_tetrapeptide]
        forward_kl   4.2e9    -597.572±0.004  5.85±0.06    (4.09±0.05)e-3     (9.31±0.04)e-3
        reverse_kl   2.56e8   -583.380±3.502  1.28±0.52    (1.21±0.32)e0      (1.14±0.36)e0
        fab          8.43e8   -597.355±0.007  7.23±0.07    (2.55±0.12)e-2     (8.64±0.59)e-3
        ta_bg        8e8      -597.829±0.026  10.14±0.44   (7.40±1.03)e-3     (7.62±0.62)e-3
        cmt:both     8e8      -598.441±0.004  26.18±0.25   (5.80±0.07)e-3     (5.31±0.09)e-3

        method       elbo                  log_z             eubo          ram_tv       ram_tv_reweighted  ram_tw2
        [alanine_dipeptide]
        forward_kl   -175.98±0.39          -175.010±0.000    -174.90±0.00  2.85±0.01    2.36±0.02    0.11±0.01
        reverse_kl   -175.35±0.09          -175.010±0.001    -174.93±0.01  3.34±0.13    2.39±0.02    0.11±0.01
        fab          -335.18±21.99         -175.009±0.000    -174.97±0.00  2.55±0.02    2.16±0.01    0.10±0.01
        ta_bg        -175.04±0.00          -175.009±0.000    -174.99±0.00  3.07±0.14    2.15±0.01    0.11±0.01
        cmt:both     -175.06±0.01          -175.009±0.000    -175.00±0.00  2.34±0.00    2.19±0.02    0.09±0.01
        [alanine_tetrapeptide]
        forward_kl   -525.21±44.35         -334.194±0.001    -333.91±0.00  3.20±0.05    3.06±0.01    0.47±0.01
        reverse_kl   -334.40±0.01          -334.240±0.003    -333.03±0.12  7.78±0.07    7.70±0.12    0.67±0.00
        fab          -17002.96±3915.36     -334.193±0.000    -333.94±0.00  7.48±0.09    2.65±0.01    0.61±0.01
        ta_bg        -335.04±0.12          -334.194±0.000    -333.98±0.00  4.26±0.17    2.84±0.07    0.48±0.01
        cmt:both     -396.38±17.37         -334.194±0.000    -334.01±0.00  3.17±0.04    2.88±0.06    0.49±0.01
        [alanine_hexapeptide]
        forward_kl   -85975.91±1143.50     -534.413±0.001    -533.33±0.00  4.62±0.07    5.32±0.03    0.84±0.00
        reverse_kl   -535.458±0.21         -534.547±0.012    -529.11±0.28  20.26±1.53   14.43±1.10   1.25±0.06
        fab          -417887.74±9775.99    -534.416±0.011    -533.00±0.01  15.71±0.09   5.88±0.01    1.06±0.00
        ta_bg        -61223.64±3087.05     -534.388±0.034    -533.31±0.01  7.05±0.07    5.53±0.10    0.89±0.01
        cmt:both     -56330.30±5591.79     -534.426±0.002    -533.49±0.01  6.87±0.06    5.51±0.02    0.91±0.01
        [elil_tetrapeptide]
        forward_kl   -75096.13±10413.10    -278.483±0.001    -276.97±0.00  4.92±0.04    6.63±0.03    0.49±0.01
        reverse_kl   -282.32±0.50          -279.053±0.132    -262.78±3.50  64.59±7.07   40.45±6.61   1.45±0.04
        fab          -547087.69±15708.70   -278.479±0.001    -276.75±0.01  20.02±0.42   6.92±0.23    0.85±0.00
        ta_bg        -38945.97±2692.22     -278.482±0.001    -277.23±0.03  7.23±0.32    5.84±0.24    0.58±0.03
        cmt:both     -1028.37±239.09       -278.481±0.001    -277.84±0.00  6.09±0.09    4.12±0.03    0.52±0.01
    """,
    ("CMT", 3): """
        method            target_evaluations  eubo  ram_kl    ram_kl_reweighted  ram_tv       ram_tv_reweighted
        [alanine_dipeptide]
        cmt:none          1e8  -174.99±0.00  (1.56±0.02)e-3   (1.45±0.02)e-3     2.28±0.02    2.17±0.00
        cmt:trust_region  1e8  -174.99±0.00  (1.49±0.01)e-3   (1.47±0.02)e-3     2.29±0.00    2.20±0.03
        cmt:entropy       1e8  -175.00±0.00  (1.51±0.01)e-3   (1.34±0.01)e-3     2.39±0.02    2.19±0.02
        cmt:both          1e8  -175.00±0.00  (1.48±0.01)e-3   (1.41±0.02)e-3     2.34±0.00    2.19±0.02
        [alanine_tetrapeptide]
        cmt:none          1e8  -333.63±0.22  (6.87±3.94)e-2   (6.78±3.85)e-2     4.53±0.84    4.30±0.87
        cmt:trust_region  1e8  -333.99±0.00  (2.09±0.05)e-3   (2.03±0.04)e-3     2.98±0.01    2.86±0.03
        cmt:entropy       1e8  -333.97±0.00  (2.25±0.04)e-3   (1.75±0.03)e-3     3.65±0.04    2.92±0.02
        cmt:both          1e8  -334.01±0.00  (1.98±0.06)e-3   (1.66±0.08)e-3     3.17±0.04    2.88±0.06
        [alanine_hexapeptide]
        cmt:none          4e8  -531.48±0.21  (2.56±0.37)e-1   (2.52±0.43)e-1     9.99±0.10    9.92±0.22
        cmt:trust_region  4e8  -533.05±0.27  (4.29±1.62)e-2   (4.11±1.57)e-2     7.66±0.69    6.51±0.69
        cmt:entropy       4e8  -533.06±0.02  (1.28±0.10)e-2   (1.39±0.12)e-2     7.91±1.39    6.10±0.03
        cmt:both          4e8  -533.49±0.01  (1.25±0.05)e-2   (1.21±0.02)e-2     6.87±0.06    5.51±0.02
    """,
    ("CMT", 5): """
        method    pretraining_hours  training_hours  wall_clock_hours
        [alanine_dipeptide]
        fab       .     18.1   18.1
        ta_bg     6.2   16.9   23.2
        cmt:both  .     20.4   20.4
        [alanine_tetrapeptide]
        fab       .     19.5   19.5
        ta_bg     7.2   16.9   24.1
        cmt:both  .     21.7   21.7
        [alanine_hexapeptide]
        fab       .     41.0   41.0
        ta_bg     22.1  32.8   55.0
        cmt:both  .     64.3   64.3
        [elil_tetrapeptide]
        fab       .     56.6   56.6
        ta_bg     22.3  66.9   89.2
        cmt:both  .     138.2  138.2
    """,
    ("TA-BG", 1): """
        method      target_evaluations  nll             ess          ram_kl          ram_kl_reweighted
        [alanine_dipeptide]
        forward_kl  5e9      -213.581±0.000  82.16±0.09   (2.21±0.05)e-3  (1.99±0.07)e-3
        reverse_kl  2.56e8   -213.609±0.006  94.11±0.21   (1.75±0.28)e-2  (1.65±0.29)e-2
        fab         2.13e8   -213.653±0.000  94.81±0.04   (1.50±0.03)e-3  (1.25±0.01)e-3
        ta_bg       7.56e7   -213.665±0.002  95.61±0.14   (1.97±0.08)e-3  (1.39±0.03)e-3
        [alanine_tetrapeptide]
        forward_kl  4.2e9    -330.069±0.001  45.29±0.08   (2.26±0.06)e-3  (2.50±0.03)e-3
        reverse_kl  2.56e8   -329.191±0.122  74.88±3.65   (3.00±0.35)e-1  (2.87±0.40)e-1
        fab         2.13e8   -330.100±0.002  63.59±0.23   (6.89±0.25)e-3  (1.25±0.01)e-3
        ta_bg       7.56e7   -330.114±0.004  62.36±0.46   (2.61±0.20)e-3  (1.94±0.12)e-3
        [alanine_hexapeptide]
        forward_kl  4.2e9    -501.598±0.005  10.97±0.11   (4.16±0.26)e-3  (7.69±0.03)e-3
        reverse_kl  2.56e8   -497.378±0.277  22.22±1.44   (5.41±0.38)e-1  (5.32±0.38)e-1
        fab         4.2e8    -501.268±0.008  14.64±0.08   (2.09±0.02)e-2  (1.12±0.02)e-2
        ta_bg       3.08e8   -501.511±0.013  14.71±0.18   (8.63±0.66)e-3  (8.77±0.47)e-3
    """,
}

# TA-BG, Table 15: mean ± *standard deviation*, over 4 runs for the paper's own experiments, 3 for those that it cites.
# ESS is not clipped, and both metrics are of 1000 samples.
_GMM40 = """
    method         runs  nll        ess_raw
    fab_real_nvp   3     7.14±0.01  65.3±1.7
    fab            4     6.92±0.00  97.09±0.58
    ta_bg          4     6.91±0.01  96.89±0.48
    pis            3     7.72±0.03  29.5±1.8
    dds            3     7.43±0.46  68.7±20.8
    idem           3     6.96±0.07  73.4±9.2
"""

_CELL = re.compile(r"\(?(-?\d+(?:\.\d+)?)(?:±(\d+(?:\.\d+)?))?\)?(?:e(-?\d+))?")


@functools.cache
def published_results() -> tuple[PublishedResult, ...]:
    """Every line of CMT's Tables 1, 2, 3 and 5 and of TA-BG's Tables 1 and 15, in that order."""
    results = []
    for (paper, table), text in _TABLES.items():
        names, system = [], ""
        for first, *cells in filter(None, map(str.split, text.splitlines())):
            if first == "method":
                names = cells
            elif first.startswith("["):
                system = first[1:-1]
            else:
                method, _, bounds = first.partition(":")
                estimates = _read_cells(names, cells, _NUM_RUNS)
                results.append(PublishedResult(paper, table, system, method, bounds, estimates))
    return (*results, *_gmm_results())


def published_rows(system: str) -> list[TableRow]:
    """What is published about a system as rows of a table: one a paper, method and choice of bounds.

    Args:
      system: name of the molecule as of ``molecules.published``, or "gmm40". Of others, nothing is published.
    """
    merged: dict[tuple[str, str, str], list[PublishedResult]] = {}
    for result in published_results():
        if result.system == system:
            merged.setdefault((result.paper, result.method, result.bounds), []).append(result)
    rows = []
    for (paper, method, bounds), results in merged.items():
        estimates = {name: value for result in results for name, value in result.estimates.items()}
        tables = list(dict.fromkeys(result.table for result in results))
        rows.append(
            TableRow(
                system,
                method_title(
                    method,
                    has_trust_region=bounds in ("", "both", "trust_region"),
                    has_entropy_bound=bounds in ("", "both", "entropy"),
                ),
                f"published: {paper}, Table{'s' if len(tables) > 1 else ''} {', '.join(map(str, tables))}",
                max(value.num_runs for value in estimates.values()),
                estimates,
            )
        )
    return rows


def _gmm_results() -> list[PublishedResult]:
    (_, _, *names), *lines = filter(None, map(str.split, _GMM40.splitlines()))
    results = []
    for method, num_runs, *cells in lines:
        estimates = {
            name: value._replace(standard_error=(value.standard_error or 0.0) / math.sqrt(value.num_runs))
            for name, value in _read_cells(names, cells, int(num_runs)).items()
        }
        results.append(PublishedResult("TA-BG", 15, "gmm40", method, "", estimates))
    return results


def _read_cells(names: list[str], cells: list[str], num_runs: int) -> dict[str, Estimate]:
    estimates = {}
    for name, cell in zip(names, cells, strict=True):
        if cell == ".":
            continue
        match = _CELL.fullmatch(cell)
        if match is None:
            raise ValueError(f"a cell must read like '-1.50±0.02', '(1.50±0.02)e-3' or '5e9', got {cell!r} of {name}.")
        mean, error, exponent = match.groups()
        unit = 10.0 ** int(exponent or 0) / (100.0 if name in _PERCENT else 1.0)
        decimals = len(mean.partition(".")[2])
        estimates[name] = Estimate(
            float(mean) * unit,
            None if error is None else float(error) * unit,
            num_runs,
            resolution=10.0**-decimals * unit,
        )
    return estimates
