"""Tests of the adapters, beside the frameworks: ``tests/integration/test_adapters.py`` runs them in their environment.

They are called ``*_checks.py``, because pytest must not collect them where the frameworks are not installed.
"""

from __future__ import annotations

TEXTS = [
    "버스가 늦게 와서 회의에 늦었다.",
    "점심에 김치찌개를 먹었다.",
    "주말에는 산에 올라갔다.",
    "UPPER case, Ünïcödé 🙂",
    "",
    "기차가 터널을 지나자 바다가 보였다. " * 30,
]
QUERY = "회의에 늦은 이유"
