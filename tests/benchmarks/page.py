"""The page `tests/benchmarks/README.md`, written from the result files alone: the same files give the same text."""

from __future__ import annotations

import importlib
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.meta import ROOT
from tests.benchmarks.report import RESULTS, table

PAGE = ROOT / "tests" / "benchmarks" / "README.md"
ORDER = (
    "cascade",
    "gate",
    "drift",
    "student",
    "embeddings",
    "methods",
    "losses",
    "schemes",
    "methods_writing",
    "rerank",
    "export",
    "examples",
    "design",
    "tuning",
    "serving",
    "replies",
    "bus",
    "edge",
    "loop",
    "recovery",
)
TITLES = {"edge": "bus: the edge", "methods_writing": "methods: students that write"}

QUESTIONS = {
    "cascade": "What share of traffic can a student serve at a certified agreement with the teacher?",
    "gate": "How many teacher calls does a verdict cost, and how often is it wrong?",
    "drift": "After how many audits is a change seen, and how often is there an alarm where nothing changed?",
    "student": "What does each student cost beside its teacher, and how often does it agree?",
    "methods": "Does each distillation objective beat hard labels?",
    "losses": "Are the losses those of another library, and what do they cost?",
    "rerank": "How well and how fast does each student rank, beside the cross-encoder that taught it and beside BM25?",
    "embeddings": "What do smaller sentence encoders cost and keep of the one that taught them?",
    "schemes": "Does it help who teaches, and in which order, beside direct distillation?",
    "export": "Does a student answer the same on phones, devices and in browsers, and what does it cost there?",
    "examples": "What do the two example programs measure: five encoders into one, and BERT-large's shape for a phone?",
    "design": "Do the predictions of `stillhouse design` hold for the students that are then trained?",
    "tuning": "How fast is a student that writes fine-tuned, beside plain TRL?",
    "methods_writing": "What do a local teacher's token probabilities add, where a student is cut from it?",
    "serving": "What does a student that writes cost in vLLM, as it is and quantised, and how often does it agree?",
    "replies": "On grounded replies, what do recorded replies in the prompt do, and what does fine-tuning on them?",
    "bus": "What does the router cost beyond the model call, on the Kafka path?",
    "edge": "And on the OpenAI-compatible edge, beside LiteLLM's proxy and TensorZero's gateway?",
    "loop": "From the first request to a live student, a change of traffic, its alarm and the way back",
    "recovery": "kill -9 under load: what is lost, what is doubled, and for how long?",
}

HEAD = """# Benchmarks

Read this first:

- One virtual machine of 2 cores; `tuning`, `serving`, `bus`, `edge`, `recovery` and `loop` ran alone on it, others
  beside each other (load averages are below). Its speed changes by half within minutes, with what else its host does:
  counts, shares and ratios can be compared between machines; CPU time, waiting and requests a second only with what
  stands beside them.
- Intervals are exact 95 % intervals (Clopper-Pearson) where they are of shares, and the range over repeats elsewhere.
- The model in `bus` and `edge` is a wait of 5 ms, which computes nothing. In `edge` it is a stand-in behind HTTP, and
  generator, stand-in and gateway share the 2 cores, so that the most requests a second are this machine's, not a
  gateway's on cores of its own; LiteLLM ran one worker, which is one core at most.
- The gateways of `edge` do not do the same: Stillhouse records every answer before it gives it, and the CPU time of
  what takes the record is in `stillhouse_all_services` only; its peers ran without their databases and record nothing.
  At 20 requests a second much of that figure is what the services spend while nobody asks.
- `tuning` and `serving` are of one small model (135 million weights) on one CPU, whose vector instructions decide which
  form is faster. Nothing was measured on a GPU.
- `replies` is a small sample (60 turns, one run, one seed) of the same model, on one core, and its check is a program
  that also blames true replies: its intervals are wide, and nothing in it says that a reply is helpful.
- `bus`, `edge`, `loop` and `recovery` run on the embedded broker, which keeps everything in memory: no replication, no
  disk. Apache Kafka was not measured.
- The teacher of `student`, `gate` and `loop` is a sentence encoder with a fitted head, on the same machine. Its price
  per call is declared (an LLM's list price), not measured; where "times cheaper" compares measured things, it says CPU.
- `cascade` certifies for requests like those that it calibrated on. clinc150's calibration and test parts are dealt
  anew for that; where they stay as they came, or time passes (`commit_type_stream`), a certificate says less, and the
  tables show by how much: watching for that is what drift detection is for.
- Drift detectors run with their own defaults, and were not tuned to these streams; they promise different things. On
  the real stream ADWIN is quicker.
- A dash is a thing that never happened in the run, or was not measured.
"""

FOOT = """## Running them again

```
make bench                                    # gate, drift, student and bus, then this page
make bench NAME=recovery                      # or any other:
{names}
make bench NAME=gate QUICK=1                  # smaller samples; the result goes to .stillhouse/bench/quick/
make bench NAME=student DATA=FILE OUT=FILE    # your own data: .jsonl or .jsonl.gz with text and label,
                                              # for tuning and serving with input and output, for rerank
                                              # with query_id, query, doc_id, doc and relevance
make bench NAME=loop REPORT=FILE              # from the report.json of a demo that was played before
```

Peers are installed on demand, each into an environment of its own below `.stillhouse/bench/`. Named data sets are
looked for in `../shared/data/`, or where `STILLHOUSE_BENCH_DATA` says. Result files (`results/<name>.json`) hold what
the tables round, with intervals, ranges, versions and sample sizes; `DATA=` never writes to them.
"""


def text(results: Mapping[str, dict[str, Any]]) -> str:
    """The whole page for these result files."""
    parts = [HEAD, _where(results)]
    for name in ORDER:
        if name not in results:
            continue
        module = importlib.import_module(f"tests.benchmarks.{name}")
        title, method, shown = TITLES.get(name, name), _method(module), module.show(results[name])
        parts.append(f"## {title}\n\n**{QUESTIONS[name]}**\n\n{method}\n\n{shown}\n")
        if (note := results[name]["meta"].get("note")) is not None:
            parts.append(f"Of this run: {note}.\n")
    return "\n".join([*parts, _versions(results), FOOT.replace("{names}", _names())])


def read(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The result files by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def write() -> Path:
    """Write the page from the committed results."""
    PAGE.write_text(text(read()), encoding="utf-8")
    return PAGE


def _method(module: Any) -> str:
    """What the program says of itself, without its headline."""
    return str(module.__doc__).strip().split("\n\n", 1)[1]


def _where(results: Mapping[str, dict[str, Any]]) -> str:
    rows = []
    for name in ORDER:
        if name not in results:
            continue
        of = results[name]["meta"]
        machine, before, after = of["machine"], of["load_average_at_start"], of["load_average_at_end"]
        rows.append(
            [
                name,
                of["data"],
                of["repeats"],
                of["started_at"][:16].replace("T", " "),
                f"{before[0]:g} → {after[0]:g}",
                f"{machine['cores']} × {machine['cpu']}",
                of["commit"],
            ]
        )
    return table(["benchmark", "data", "repeats", "started (UTC)", "load average", "cores", "commit"], rows) + "\n"


def _names() -> str:
    """Every benchmark, as comment lines beside the command that runs one."""
    margin = " " * 46 + "# "
    return textwrap.fill(", ".join(ORDER), 116, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False)


def _versions(results: Mapping[str, dict[str, Any]]) -> str:
    found: dict[str, set[str]] = {}
    for result in results.values():
        for name, version in result["meta"]["versions"].items():
            found.setdefault(name, set()).add(version)
    said = ", ".join(f"{name} {' and '.join(sorted(versions))}" for name, versions in sorted(found.items()))
    return f"## Versions\n\n{said}.\n"
