"""What a machine can serve: known machines, and that every refusal says why."""

from __future__ import annotations

from typing import get_args

import pytest

from stillhouse.models.vllm.spec import Quantization
from stillhouse.models.vllm.supported import Target, capability_of, choices, detect, has_avx2, refusal

OLD = Target(avx2=False)
AVX2 = Target(avx2=True)
TURING, AMPERE, ADA, HOPPER, BLACKWELL, DESK_BLACKWELL = (
    Target(True, gpu) for gpu in ((7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0))
)


@pytest.mark.parametrize(
    ("target", "served"),
    [
        (OLD, ()),
        (AVX2, ("none", "w8a8")),
        (TURING, ("none",)),
        (AMPERE, ("w8a8", "w4a16", "none")),
        (ADA, ("fp8", "w8a8", "w4a16", "none")),
        (HOPPER, ("fp8", "w8a8", "w4a16", "none")),
        (BLACKWELL, ("nvfp4", "fp8", "w4a16", "none")),
        (DESK_BLACKWELL, ("nvfp4", "fp8", "w4a16", "none")),
    ],
)
def test_known_machines_serve_what_they_can_the_best_first(target, served) -> None:
    assert choices(target) == served
    for quantization in get_args(Quantization):
        why = refusal(quantization, target)
        assert (why is None) == (quantization in served)
        assert why is None or (why.endswith(".") and "\n" not in why)


def test_a_refusal_names_what_is_missing() -> None:
    assert "float32" in (refusal("w4a16", AVX2) or "")
    assert "Blackwell" in (refusal("nvfp4", HOPPER) or "")
    assert "8.0" in (refusal("fp8", AMPERE) or "")


def test_flags_are_read_from_cpuinfo() -> None:
    assert has_avx2("processor : 0\nflags\t\t: fpu sse avx avx2\n")
    assert not has_avx2("flags : avx avx2_vnni\n")
    assert not has_avx2("Features : fp asimd\n")
    assert not has_avx2("")


def test_the_least_capable_gpu_counts() -> None:
    assert capability_of("9.0\n8.6\n") == (8, 6)
    assert capability_of("12.0\n") == (12, 0)
    assert capability_of("No devices were found\n") is None
    assert capability_of("") is None


def test_this_machine_is_some_machine() -> None:
    assert detect(with_gpu=False).gpu is None
