"""`python -m tests.benchmarks [NAME ...] [--quick] [--data PATH --out FILE]`: run benchmarks, keep their figures."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks import page
from tests.benchmarks.report import QUICK_RESULTS, RESULTS, write_result

NAMES = (
    "cascade",
    "gate",
    "drift",
    "student",
    "export",
    "design",
    "tuning",
    "serving",
    "bus",
    "edge",
    "loop",
    "recovery",
)
SHORT = ("gate", "drift", "student", "bus")


def main() -> None:
    """Run what the command line names. Results of other data, and of quick runs, never replace the committed ones."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; none: {', '.join(SHORT)}")
    parser.add_argument("--quick", action="store_true", help="smaller samples, one to three minutes each")
    parser.add_argument("--data", type=Path, help="other data: .jsonl, .jsonl.gz or a folder; needs --out")
    parser.add_argument("--out", type=Path, help="where the result of other data goes")
    parser.add_argument("--report", type=Path, nargs="+", default=(), help="loop: report.json of demos played before")
    parser.add_argument("--page", action="store_true", help="only write the page anew from the results")
    given = parser.parse_args()
    names = given.names or ([] if given.page else list(SHORT))
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    if given.data is not None and (given.out is None or len(names) != 1):
        parser.error("DATA needs OUT and one NAME: committed results come from the named data only")
    if given.data is not None and not given.data.exists():
        parser.error(f"{given.data} is not there")
    for name in names:
        options: dict[str, Any] = {"report": given.report} if name == "loop" else {}
        module = importlib.import_module(f"tests.benchmarks.{name}")
        result = module.run(given.quick, given.data.resolve() if given.data else None, **options)
        target = given.out or (QUICK_RESULTS if given.quick else RESULTS) / f"{name}.json"
        write_result(target, result)
        print(f"\n{name}\n\n{module.show(result)}\n\nwritten: {target}")
    if given.out is None and not given.quick:
        print(f"page: {page.write()}", file=sys.stderr)


if __name__ == "__main__":
    main()
