"""Every token id must find its own row of the table of word vectors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from exporter.graph.surgery import input_of
from exporter.validator.check import Check
from exporter.validator.lookup import IDS_AT_ONCE, _ids, check_lookup
from tests.support.faults import Subject, subject_named
from tests.support.surgery import Surgery, constant, stored_array, table_readers

NAME = "albert-small (small twin)"


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_named(NAME)


def looked_up(subject: Subject, model: ir.Model) -> Check:
    table = subject.checkpoint.model[0].auto_model.get_input_embeddings().weight.detach().numpy()
    return check_lookup(model, table, subject.checkpoint.facts.max_seq_length)


def test_a_sound_graph_finds_every_row(subject: Subject) -> None:
    check = looked_up(subject, subject.graph.editable())
    assert check.passed
    assert check.name == "lookup"
    assert check.coverage == "2,000 of 2,000 ids find their own row of the word vectors"


def test_one_id_that_finds_another_row_is_named(subject: Subject) -> None:
    model = subject.graph.editable()
    (reader,) = table_readers(model, "word")
    ids = input_of(reader, 1)
    wrong, other = constant(model, 1234), constant(model, 1235)
    surgery = Surgery(model, ids)
    equal = surgery.add("Equal", [ids, wrong], ir.DataType.BOOL, ids.shape)
    reader.replace_input_with(1, surgery.add("Where", [equal, other, ids], like=ids))

    check = looked_up(subject, model)

    assert check.failures == ("1 of 2,000 ids find another row of the word vectors, 1234",)
    assert check.figures == {"ids": 2000, "wrong": 1}


def test_a_graph_that_reads_another_table_fails(subject: Subject) -> None:
    model = subject.graph.editable()
    (reader,) = table_readers(model, "word")
    table = input_of(reader)
    changed = stored_array(table).copy()
    changed[5, 0] = np.nextafter(changed[5, 0], np.float32(1))
    table.const_value = ir.tensor(changed, name=table.name)

    found = looked_up(subject, model)
    assert (found.name, found.failures) == ("lookup", ("0 nodes look up word vectors, and one was expected",))


def test_an_id_whose_vector_differs_in_one_number_is_named(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_number_off(ids: np.ndarray, _mask: np.ndarray) -> np.ndarray:
        vectors: np.ndarray = table[ids]
        vectors[ids == 77, 3] += 1
        return vectors

    model = subject.graph.editable()
    (reader,) = table_readers(model, "word")
    table = stored_array(input_of(reader))
    monkeypatch.setattr("exporter.validator.lookup.evaluator_of", lambda *_: one_number_off)
    assert looked_up(subject, model).failures == ("1 of 2,000 ids find another row of the word vectors, 77",)


def test_the_table_may_be_read_for_something_else_than_looking_up(subject: Subject) -> None:
    model = subject.graph.editable()
    (reader,) = table_readers(model, "word")
    turned = ir.node("Transpose", [input_of(reader)], name="fault/Transpose")
    model.graph.append(turned)
    assert looked_up(subject, model).passed


def test_batches_hold_every_id_and_no_more_than_fit() -> None:
    batches = _ids(20_000, 512)
    assert {batch.shape[1] for batch in batches} == {512}
    assert max(batch.size for batch in batches) == IDS_AT_ONCE
    assert set(np.concatenate([batch.ravel() for batch in batches]).tolist()) == set(range(20_000))
    assert [batch.shape for batch in _ids(10, 512)] == [(1, 10)]
