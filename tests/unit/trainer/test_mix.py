"""The data mix of a shop's assistant, a hundredth of its size: what teaches, what does not, and what the card says."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from services.trainer.card import card_of, write_card
from services.trainer.dataset import choose, freeze, within_quotas, without_golden, without_repeats
from services.trainer.job import mixed
from stillhouse.quality.near_duplicates import distinct
from stillhouse.store.redaction import input_hash
from stillhouse.tasks import Data, Task
from tests.unit.trainer.tasks import at

TITLES = ("Akira", "Blame", "Chobits", "Dororo", "Eden", "Fruits", "Gantz", "Hellsing", "Inuyasha", "Jormungand")
WORDS = [
    "box",
    "parcel",
    "volume",
    "cover",
    "card",
    "order",
    "price",
    "shelf",
    "gift",
    "poster",
    "figure",
    "corner",
    "paper",
    "letter",
    "week",
    "month",
    "city",
]


def a_row(number: int, text: str, output: str, provenance: str = "teacher", **changes: Any) -> dict[str, Any]:
    return {
        "example_id": f"e{number:05}",
        "time": at(number),
        "input": text,
        "input_sha256": input_hash(text),
        "input_type": "text",
        "output": output,
        "teacher_output": output,
        "provenance": provenance,
        "sample": "full",
        "group": f"conversation-{number // 3}",
        "verdict": "correct" if provenance == "human" else None,
        "review_id": f"r{number}" if provenance == "human" else None,
        "teacher_version": "t1",
    } | changes


def shop() -> list[dict[str, Any]]:
    """25,000 answered prompts, 5,000 corrected and 2,000 refused or escalated ones, by 100; and what must not teach."""
    rng = random.Random(0)
    asked = [f"{rng.choice(TITLES)} {number}: {' '.join(rng.sample(WORDS, 6))}?" for number in range(400)]
    rows = [a_row(n, asked[n], f"It costs {n} yen.") for n in range(250)]  # grounded: the number is in the question
    rows += [a_row(250 + n, asked[250 + n], f"Ask for volume {250 + n}.", "human") for n in range(50)]
    rows += [a_row(300 + n, asked[300 + n], "I may not answer that.", "policy") for n in range(20)]
    rows += [a_row(320 + n, asked[320 + n], f"Order {99_000 + n} was sent.") for n in range(10)]  # made up
    rows += [a_row(330 + n, asked[n].replace("?", "s?"), f"It costs {n} yen.") for n in range(10)]  # nearly the same
    rows += [a_row(340, asked[340], "It costs 340 yen.", verdict="flag", review_id="r340")]
    rows += [a_row(350 + n, asked[5], "It costs 5 yen.") for n in range(4)]  # asked again and again
    rows += [a_row(360, asked[7], "It costs 7 yen, sorry.", "human"), a_row(361, asked[7], "It costs 7 yen.")]
    return rows


def a_task(**data: Any) -> Task:
    return Task.model_validate(
        {
            "name": "shop",
            "kind": "generate",
            "group_by": "group",
            "teacher": {"kind": "openai", "model": "m", "usd_per_call": 0.01},
            "data": data,
        }
    )


def chosen_of(task: Task, rows: list[dict[str, Any]]):
    taught, removed = mixed(task, rows, set(), "t1")
    found = choose(taught, largest=10_000, since=None, by_group=True, rules_teach=task.data.policy > 0)
    return taught, removed, found


def test_every_provenance_teaches_within_its_quota_and_people_win() -> None:
    task = a_task(teacher=200, human=50, policy=20, grounded=True, distinct=True)
    rows = shop()
    taught, removed, chosen = chosen_of(task, rows)
    by_id = {row["example_id"]: row for row in taught}
    texts = [by_id[item.example_id] for item in chosen]
    assert {name: sum(row["provenance"] == name for row in texts) for name in ("teacher", "human", "policy")} == {
        "teacher": 200,
        "human": 50,
        "policy": 20,
    }
    assert removed["flagged by a person"] == 1
    assert removed["state what was not given"] == 10
    assert removed["nearly repeat another text"] == 10
    # The newest of the teacher's: those of the oldest texts are beyond its quota.
    assert "e00249" in by_id
    assert "e00010" not in by_id
    # A person said otherwise about one text; a newer answer of the teacher does not take that back.
    said = next(row for row in texts if row["input_sha256"] == input_hash(rows[7]["input"]))
    assert said["output"] == "It costs 7 yen, sorry."
    groups = {
        split: {by_id[i.example_id]["group"] for i in chosen if i.split == split} for split in ("train", "select")
    }
    assert not groups["train"] & groups["select"]


def test_without_a_table_rules_teach_nothing_and_all_else_does() -> None:
    rows = [row for row in shop() if row["verdict"] != "flag"]
    taught, removed, chosen = chosen_of(a_task(), rows)
    assert removed == {
        "flagged by a person": 0,
        "with a label that people often correct": 0,
        "beyond the quotas of [data]": 20,
    }
    assert len(chosen) == 250 + 50 + 10 + 10
    assert {row["provenance"] for row in taught} == {"teacher", "human"}


def test_a_rules_text_that_the_teacher_answered_too_still_teaches() -> None:
    rows = [a_row(1, "x", "a"), a_row(2, "x", "b", "policy"), a_row(3, "y", "b", "policy")]
    assert [row["example_id"] for row in within_quotas(rows, Data())] == ["e00001"]
    assert len(within_quotas(rows, Data(policy=5))) == 3
    assert within_quotas(rows, Data(teacher=0)) == []


def test_of_texts_that_nearly_repeat_each_other_the_persons_stays() -> None:
    one, two = "when will my order of ten volumes arrive?", "when will my order of ten volumes arive?"
    rows = [a_row(1, one, "a", "human"), a_row(2, two, "b"), a_row(3, "something else entirely", "c")]
    assert [row["example_id"] for row in without_repeats(rows)] == ["e00001", "e00003"]


def test_near_repeats_are_those_that_counting_finds() -> None:
    """Against the exact overlap of every pair, on texts that were changed by a few letters."""
    rng = random.Random(1)
    texts = [" ".join(rng.choice(WORDS) for _ in range(9)) for _ in range(60)]
    texts += [text[:20] + "x" + text[21:] for text in texts[:20]]

    def shingles(text: str) -> set[str]:
        return {text[i : i + 3] for i in range(len(text) - 2)}

    wanted: list[int] = []
    for place, text in enumerate(texts):
        own = shingles(text)
        if all(len(own & shingles(texts[one])) < 0.75 * len(own | shingles(texts[one])) for one in wanted):
            wanted.append(place)
    assert distinct(texts) == wanted
    assert 60 <= len(wanted) < 80


def test_the_card_says_what_is_in_it_and_no_text(tmp_path: Path) -> None:
    rows = shop()
    golden = [rows[100]["input"], rows[101]["input"] + "?"]
    left = without_golden(rows, golden)
    assert len(rows) - len(left) == 2
    task = a_task(policy=20, grounded=True)
    taught, removed, chosen = chosen_of(task, left)
    dataset = freeze(chosen, tmp_path, at(400))
    removed = {"repeat the golden set": 2, **removed}
    card = card_of(task, dataset, chosen, taught, removed, recorded=len(rows), since=None)
    write_card(card, tmp_path)
    assert json.loads((tmp_path / f"{dataset.version}.card.json").read_text()) == json.loads(json.dumps(card))
    counted = sum(of["examples"] for of in card["splits"].values())
    assert counted == len(rows) - sum(removed.values())
    assert card["splits"]["train"]["texts"] == dataset.n_train
    assert card["lineage"]["teacher_versions"] == {"t1": len(chosen)}
    assert card["lineage"]["settings"]["policy"] == 20
    page = (tmp_path / f"{dataset.version}.md").read_text()
    assert "| repeat the golden set | −2 |" in page
    assert "| state what was not given | −10 |" in page
    assert f"Version `{dataset.version}`" in page
    assert not any(row["input"] in page or row["input"] in json.dumps(card) for row in rows)
    again = card_of(task, dataset, chosen, taught, removed, recorded=len(rows), since=None)
    assert again == card


@pytest.mark.parametrize("wrong", [{"teacher": -1}, {"polcy": 3}])
def test_a_table_that_says_nothing_sensible_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="data"):
        a_task(**wrong)
