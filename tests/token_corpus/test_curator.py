"""The stage for NeMo Curator, where that is installed: its units are those of one process."""

import importlib.util
from pathlib import Path

import pytest
from token_folders import tables

EXAMPLE = Path(__file__).parents[2] / "examples" / "curator_stage.py"


@pytest.mark.filterwarnings("ignore")  # of Curator
def test_a_curator_stage_makes_the_units_of_one_process(plan, tokenized, tiny_folder, make_list, tmp_path):
    pytest.importorskip("nemo_curator")
    from nemo_curator.tasks import EmptyTask

    spec = importlib.util.spec_from_file_location("curator_stage", EXAMPLE)
    stages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stages)

    source = make_list(5)
    dataset = plan(source, tmp_path / "t")
    tasks = stages.UnitSource(str(tmp_path / "t")).process(EmptyTask(dataset_name="", data=None))
    assert [task._metadata["unit"] for task in tasks] == list(range(dataset.num_units))
    assert len({task.get_deterministic_id() for task in tasks}) == dataset.num_units
    stage = stages.TokenizeUnits(str(tmp_path / "t"), str(tiny_folder))
    stage.setup()
    for task in tasks:
        done = stage.process(task)
        assert all(Path(path).is_file() for path in done.data)
        assert done._metadata["bad"] == 0
    assert tables(tmp_path / "t") == tables(tokenized(source, tmp_path / "plain").folder)
