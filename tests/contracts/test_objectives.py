"""What `stillhouse design` recommends is what the committed results of `methods` show."""

from __future__ import annotations

import pytest

from stillhouse.distill.architecture.objectives import objectives
from tests.benchmarks import page

METHODS = {name: of for name, of in page.read()["methods"].items() if name != "meta"}


@pytest.mark.parametrize("one", objectives(soft=True), ids=lambda one: one.name)
def test_a_gain_is_the_benchmarks(one) -> None:
    of = METHODS[one.name]
    assert one.gain == pytest.approx(100 * of["difference"], abs=0.051)
    assert (one.low, one.high) == pytest.approx([100 * bound for bound in of["difference_ci"]], abs=0.051)
    assert one.low > 0, "only what beats hard labels is recommended"
    assert of["seeds"] == 5


def test_no_method_of_the_page_is_better_than_the_recommended_ones() -> None:
    best = sorted(METHODS, key=lambda name: -METHODS[name]["difference"])
    assert [one.name for one in objectives(soft=True)][:2] == best[:2]
    assert objectives(soft=False)[0].name == "label_smoothing"
