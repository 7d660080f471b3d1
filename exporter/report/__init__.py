"""What was judged or measured, as one HTML page that needs nothing else: no network, no script, no other file.

JSON data in (``ParityReport.to_dict()``, ``Throughput.to_dict()``, a manifest, ``int8.json``, ``fp16.json``), bytes
out::

    page.py       what a page shows, and the page
    parity.py     the sections of one parity report: verdict, gates, coverage, worst sentences
    plots.py      its plots: distribution, error by length, pairwise drift
    comparison.py the sides of a comparison, and its sections
    tuning.py     the engines that were compared: a plot of accuracy against throughput
    int8.py       the candidates of an int8 export: the plot of a page and of ``int8.svg``
    audit.py      the range audit of fp16
    origin.py     where the judged came from
    svg.py        a figure of matplotlib as SVG whose colors follow the page
    numbers.py    numbers as a page writes them
    page.html.j2, parity.html.j2, page.css

**Why matplotlib.** Plotly and Vega draw when a script runs. A page that forbids scripts, and many viewers of mail and
CI, would show nothing. Plotly's script alone (4.8 MB) is 60 times a whole page of ours. matplotlib's SVG is 5 to 20 kB
a plot, its labels are text, and an int8 export needs matplotlib anyway. Bars with names of strangers beside them are
HTML: such text then wraps, and has a font whatever its script.
"""

from exporter.report.page import PAGE, SHOWN_FILES, PageData, error_page, refuse_without_packages, report_page

__all__ = ["PAGE", "SHOWN_FILES", "PageData", "error_page", "refuse_without_packages", "report_page"]
