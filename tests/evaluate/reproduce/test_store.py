"""The output folder of a table."""

from pathlib import Path

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.reproduce import planning, store, tables
from tests.support.reproduce import FOUR, results


def test_the_folder_knows_what_is_finished_begun_and_of_other_settings(made: planning.Plan, tmp_path: Path) -> None:
    own = store.Store(tmp_path / "out", made, "lmms-eval")
    whole, tango, *_ = made.steps
    assert set(own.states().values()) == {planning.PLANNED}
    assert not own.folder.exists()
    own.begin(whole)
    assert own.states()[whole.row.key] == planning.BEGUN
    own.begin(tango)
    own.finish(tango, results(1, 0.5))
    assert own.states()[tango.row.key] == planning.DONE
    assert own.results() == {tango.row.key: results(1, 0.5)}

    other = planning.make_plan(tables.table("table1"), None, FOUR, rows=["^10-tango"], limit=5)
    with pytest.raises(InputError, match="100-all-tokens holds results of other settings, limit None and not 5: cho"):
        store.Store(own.folder, other, "lmms-eval").states()
    with pytest.raises(InputError, match="harness 'lmms-eval' and not 'vlmevalkit'"):
        store.Store(own.folder, made, "vlmevalkit").states()
    (own.row_folder(tango) / "results.json").write_text('{"answers": [')
    with pytest.raises(InputError, match="is damaged"):
        own.results()
    (own.row_folder(tango) / "row.json").write_text("[")
    with pytest.raises(InputError, match="is damaged"):
        own.states()
