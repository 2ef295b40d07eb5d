"""The budget language: written, read, and what it allows."""

from __future__ import annotations

import math

import pytest

from prunopt import Budget

WRITTEN = [
    ("macs=0.5", Budget("macs", share=0.5)),
    ("macs=1", Budget("macs", share=1.0)),
    ("macs=1.5x", Budget("macs", share=1.5)),
    ("latency_ms=0.7x", Budget("latency_ms", share=0.7)),
    ("latency_ms=0.5", Budget("latency_ms", limit=0.5)),
    ("latency_ms=12", Budget("latency_ms", limit=12.0)),
    ("parameters=80000000", Budget("parameters", limit=8e7)),
    ("heads<=1", Budget("heads", limit=1.0)),
    ("heads<=0", Budget("heads", limit=0.0)),
    ("feature cost=60.25", Budget("feature cost", limit=60.25)),
]


@pytest.mark.parametrize(("text", "budget"), WRITTEN)
def test_what_is_written_is_read(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget
    assert str(budget) == text


@pytest.mark.parametrize("share", [0.1, 1 / 3, 1e-9, 2.0, 1.0])
def test_shares_and_limits_survive_to_the_last_bit(share: float) -> None:
    for resource in ("macs", "latency_ms", "memory"):
        for budget in (
            Budget(resource, share=share),
            Budget(resource, limit=share),
            Budget(resource, limit=1e17 * share),
        ):
            assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("parameters=80M", 80e6),
        ("parameters = 7B", 7e9),
        ("parameters=1e6", 1e6),
        ("macs=0.3G", 0.3e9),
        ("memory=200MB", 200e6),
        ("memory=2GiB", 2 * 2.0**30),
        ("memory=64kB", 64e3),
        ("latency_ms=2s", 2000.0),
        ("latency_ms=0.7ms", 0.7),
    ],
)
def test_units(text: str, limit: float) -> None:
    assert Budget.parse(text).limit == pytest.approx(limit)


@pytest.mark.parametrize("text", ["macs", "macs=x", "macs=0", "latency_ms=-1", "=3", "macs=1e400", "macs=nan", ""])
def test_what_cannot_be_read_says_how_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"as in macs=0\.5"):
        Budget.parse(text)


def test_resources_and_units_are_checked() -> None:
    with pytest.raises(ValueError, match=r"resource of budget.*did you mean \"macs\""):
        Budget.parse("mac=0.5", ["macs", "parameters"])
    with pytest.raises(ValueError, match=r"unit of budget \"parameters=80MB\""):
        Budget.parse("parameters=80MB")
    with pytest.raises(ValueError, match="resource of the budget"):
        Budget.of(Budget("heads", 3), ["macs"])
    with pytest.raises(TypeError, match="budget must be a Budget"):
        Budget.of(0.5)  # type: ignore[arg-type]
    assert Budget.of("macs=0.5") == Budget.of(Budget("macs", share=0.5))


def test_what_a_budget_allows() -> None:
    share = Budget("macs", share=0.25)
    assert (share.allowed(200), share.sparsity, share.describe()) == (50.0, 0.75, "at most 25.0% of the macs")
    known = Budget("macs", share=0.25, total=200)
    assert (known.allowed(), known.violation(60), known.describe()) == (50, 10, "at most 50 of 200 macs (25.0% kept)")
    limit = Budget("parameters", 25)
    assert (limit.allowed(), limit.allowed(100), limit.violation(20)) == (25, 25, 0)
    with pytest.raises(ValueError, match="pass the total"):
        share.allowed()
    with pytest.raises(ValueError, match="pass the total"):
        _ = limit.sparsity


@pytest.mark.parametrize(
    "given",
    [{}, {"limit": 1, "share": 0.5}, {"limit": -1}, {"limit": math.inf}, {"share": math.nan}, {"limit": 1, "total": 0}],
)
def test_bad_budgets(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="of heads must"):
        Budget("heads", **given)


def test_several_budgets_in_one_text() -> None:
    found = Budget.several("memory=200MB, latency_ms=0.7x kv_cache=1kiB")
    assert [str(b) for b in found] == ["memory=200000000", "latency_ms=0.7x", "kv_cache=1024"]
    assert Budget.several([Budget("macs", share=0.5), "decode_ms=2s"])[1].limit == 2000.0
    assert Budget.several({"parameters": 0.8, "memory": "200MB"}) == Budget.several("parameters=0.8 memory=200MB")
    with pytest.raises(ValueError, match="hold a budget"):
        Budget.several([])


@pytest.mark.parametrize(("written", "meant"), [("ms", "latency_ms"), ("params", "parameters"), ("FLOPs", "macs")])
def test_other_names_of_resources_are_recognized(written: str, meant: str) -> None:
    resources = ("parameters", "macs", "latency_ms")
    with pytest.raises(ValueError, match=f'did you mean "{meant}"'):
        Budget.parse(f"{written}=0.5", resources)
    with pytest.raises(ValueError, match=f'did you mean "{meant}"'):
        Budget.of(Budget(written, share=0.5), resources)
