"""Every token id must find its own row of the table of word vectors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from exporter.graph.surgery import input_of
from exporter.validator.check import Check
from exporter.validator.lookup import check_lookup
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
