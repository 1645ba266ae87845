"""
Tables and plots from what was recorded, put into ``docs/performance.md``.

::

    summary.py     the runs of one case on one side, together
    tables.py      tables
    bars.py        what is to be reached, and how far we are
    svg.py         a small SVG: axes, bars, lines
    plots.py       plots
    page.py        the marked places of the page
"""

from tests.benchmarks.report.page import write_report

__all__ = ("write_report",)
