from __future__ import annotations

import numpy as np
import pytest

from exporter.errors import BuildError
from exporter.precisions.int8.scheme import STATIC, scheme_of

VALUES = np.linspace(-1, 3, 101).astype(np.float32)


@pytest.mark.parametrize("target", STATIC)
def test_values_within_the_range_come_back_within_half_a_step(target: tuple[str, str]) -> None:
    scheme = STATIC[target]
    how = scheme.activation_of(-1.0, 3.0)
    assert np.abs(scheme.restored(VALUES, how) - VALUES).max() <= 0.51 * how.scale
    assert (how.zero_point == 0) == scheme.symmetric


def test_an_asymmetric_range_is_worth_more_steps() -> None:
    signed, unsigned = STATIC["openvino", "cpu"], STATIC["onnxruntime", "cpu"]
    assert unsigned.activation_of(0.0, 3.0).scale < 0.51 * signed.activation_of(0.0, 3.0).scale


def test_dynamic_is_refused_where_there_are_no_kernels_for_it() -> None:
    with pytest.raises(BuildError, match=r"only onnxruntime's CPU provider") as refusal:
        scheme_of("int8_dynamic", "openvino", "cpu")
    assert refusal.value.next_step == "use `precision=int8`"
    assert scheme_of("int8_dynamic", "onnxruntime", "cpu").dynamic
