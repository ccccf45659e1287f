"""Folders that an earlier version wrote load and decide alike.

`fixtures/written_before_roles` was written before correctors and scorers became roles: a squad of one pair on the
town's LM (rank 2), an inspector on a tiny encoder, and what both said of some answers."""
import json
import warnings

import pytest
from conftest import ROOT

from aligners_nb.inspector import Inspector
from aligners_nb.squad import Squad

FOLDER = ROOT / "tests/fixtures/written_before_roles"


@pytest.fixture(scope="module")
def expected():
    return json.loads((FOLDER / "expected.json").read_text())


def test_a_squad_loads_and_decides_alike(expected):
    squad = Squad.from_pretrained(FOLDER / "squad")
    questions, responses = expected["questions"], expected["responses"]
    inspector, aligner = squad.inspectors["ethical"], squad.aligners["ethical"]
    assert inspector(questions, responses) == pytest.approx(expected["risks"], abs=1e-4)
    assert aligner(questions, responses) == expected["corrections"]
    alignments = squad(questions, responses)
    assert [alignment.aligned for alignment in alignments] == expected["aligned"]
    assert [[step.decision for step in alignment.trace] for alignment in alignments] == expected["decisions"]


def test_an_inspector_on_an_encoder_loads_from_where_its_base_is_now(expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # such as: trained on other weights
        inspector = Inspector.from_pretrained(FOLDER / "encoder_inspector", base=str(FOLDER / "bert"))
    saved = expected["encoder"]
    assert inspector(saved["questions"], saved["responses"]) == pytest.approx(saved["risks"], abs=1e-4)
    assert inspector.threshold == saved["threshold"]
