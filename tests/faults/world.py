"""Tasks small enough to train in seconds, texts to ask about, and the teachers, fitted once and copied."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from tests.faults.platform import ROOT

WORDS = {
    "order": ["where is my order", "parcel not arrived", "track the shipment", "delivery is late", "package lost"],
    "refund": ["give my money back", "refund the payment", "charged twice for it", "return and refund", "cancel bill"],
    "praise": ["i love this shop", "great service thanks", "wonderful quality", "best store ever", "very happy"],
}
FILLERS = ["please", "today", "again", "hello", "quickly", "for my sister", "since monday", "number {n}", "item {n}"]

FAST = """
[task]
name = "fast"
labels = ["order", "refund", "praise"]

[teacher]
seed = "seed.jsonl"
usd_per_call = 0.01

[[student]]
architecture = "hashed_ngrams"
buckets = 4096
dim = 16
epochs = {epochs}

[gate]
epsilon = 0.3
alpha = 0.2
min_coverage = 0.05
shadow_requests = 20
canary_share = 0.5
max_error_rate = 0.5
latency_p99_ms = 60000.0
student_timeout_ms = 10000.0

[audit]
pi = 0.5

[budget]
min_examples = {min_examples}
min_new_examples = {min_examples}
"""

SLOW = """
[task]
name = "slow"
labels = ["order", "refund", "praise"]

[teacher]
seed = "seed.jsonl"
usd_per_call = 0.01
timeout_s = 180.0

[teacher.adjudicator]
base_url = "{url}"
model = "slow"
below_margin = 1.0
timeout_s = 180.0

[[student]]
architecture = "hashed_ngrams"

[budget]
min_examples = 1000000
min_new_examples = 1000000
"""


def write_tasks(
    folder: Path, llm_url: str = "http://127.0.0.1:9/v1", *, min_examples: int = 80, epochs: int = 4
) -> Path:
    """`fast`, which the encoder answers and a student soon; `slow`, each answer of which waits for an LLM."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fast.toml").write_text(FAST.format(min_examples=min_examples, epochs=epochs))
    (folder / "slow.toml").write_text(SLOW.format(url=llm_url))
    rng = random.Random(0)
    rows = [{"text": text_of(rng, label), "label": label} for label in WORDS for _ in range(30)]
    (folder / "seed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def text_of(rng: random.Random, label: str | None = None) -> str:
    """A text that is most likely new, and easy to tell."""
    label = label or rng.choice(list(WORDS))
    filler = " ".join(rng.sample(FILLERS, 2)).format(n=rng.randrange(10**6))
    return f"{rng.choice(WORDS[label])} {filler}"


def fit(tasks: Path, home: Path) -> None:
    """Fit the tasks' teachers in `home` (20 s the first time) in a process that takes torch away with it."""
    code = (
        "import sys; from pathlib import Path; from stillhouse.tasks import load_tasks;"
        "from stillhouse.models.teacher import fit_teacher;"
        "[fit_teacher(task, Path(sys.argv[2])) for task in load_tasks(Path(sys.argv[1])).values()]"
    )
    subprocess.run([sys.executable, "-c", code, str(tasks), str(home)], check=True, cwd=ROOT, timeout=300)
