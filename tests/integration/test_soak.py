"""The soak of ``benchmarks/soak.py``, for a few minutes: what must hold is asserted, and memory is only printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import Plan, soak
from exporter.bundle import Bundle


@pytest.mark.slow
def test_ragged_and_hostile_requests_reloads_and_kills_lose_and_swap_nothing(demo_fp32: Path, tmp_path: Path) -> None:
    plan = Plan(40, hostile_share=0.3, event_s=6, probe_s=1, texts=512, request_s=300, sample_s=2)
    result = soak(Bundle.open(demo_fp32), tmp_path, plan)
    assert {event.kind for event in result.events} == {"reload", "process killed", "server killed"}
    assert [event for event in result.events if event.over is None] == []
    assert {one.result for one in result.sound} <= {"right", "lost"}
    assert result.unexplained(result.lost) == []
    assert {one.result for one in result.hostile} <= {"refused", "left", "unanswered"}
    assert result.unexplained([one for one in result.hostile if one.result == "unanswered"]) == []
    last = max(event.over or 0 for event in result.events)
    assert any(one.result == "right" and one.sent > last for one in result.sound), "nothing was served after it all"
    print(
        f"{len(result.sound)} sound requests, {len(result.lost)} lost; failed starts: {result.failed_starts}; "
        f"memory: {result.growth('total_mib')}"
    )
