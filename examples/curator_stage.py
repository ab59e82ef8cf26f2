"""Tokenise a corpus inside a NeMo Curator pipeline (nemo-curator 1.4): a source of units, and a stage that runs them.

    flexicodec tokenize train.jsonl -o tokens/ --frame-rate 6.25 --plan-only
    python examples/curator_stage.py tokens/ flexicodec-mini

Curator's checkpoints skip sources that are finished, and make a source again that was not: a unit's files are the same
bytes then, and a unit with a report is skipped, so that it can run with and without them.
"""

import sys

from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.base import ProcessingStage
from nemo_curator.stages.resources import Resources
from nemo_curator.tasks import EmptyTask, FileGroupTask

import flexicodec
from flexicodec.corpus import TokenDataset
from flexicodec.token_corpus.units import remaining_units, run_unit


class UnitSource(ProcessingStage[EmptyTask, FileGroupTask]):
    """List the units that are left, a task each."""

    name = "flexicodec_units"

    def __init__(self, folder: str):
        self.folder = folder

    def process(self, _: EmptyTask) -> list[FileGroupTask]:
        """Make a task of every unit; its data is the name of the report, which is the unit's own."""
        dataset = TokenDataset.open(self.folder)
        reports = {unit: str(dataset.report_path(unit)) for unit in remaining_units(dataset)}
        return [FileGroupTask(self.folder, [path], _metadata={"unit": unit}) for unit, path in reports.items()]


class TokenizeUnits(ProcessingStage[FileGroupTask, FileGroupTask]):
    """Tokenise units on a device, with a codec that each worker loads once."""

    name = "flexicodec_tokenize"

    def __init__(self, folder: str, model: str, device: str = "cpu"):
        self.folder = folder
        self.model = model
        self.device = device
        on_gpu = device.startswith("cuda")
        self.resources = Resources(cpus=8.0, gpus=1.0) if on_gpu else Resources(cpus=1.0)

    def setup(self, worker_metadata: object = None) -> None:
        """Load the codec."""
        self.codec = flexicodec.load(self.model, device=self.device, parts="encode")
        self.dataset = TokenDataset.open(self.folder)

    def process(self, task: FileGroupTask) -> FileGroupTask:
        """Run a unit; the data of the task become the tables that were written."""
        unit = task._metadata["unit"]
        report = run_unit(self.codec, self.dataset, unit)
        tables = [str(self.dataset.table_path(choice, unit)) for choice in self.dataset.choices]
        return FileGroupTask(task.dataset_name, tables, _metadata={"unit": unit, "bad": len(report["bad"])})


def main() -> None:
    """Run both stages."""
    folder, model, *device = sys.argv[1:]
    pipeline = Pipeline("flexicodec", stages=[UnitSource(folder), TokenizeUnits(folder, model, *device)])
    for task in pipeline.run() or []:
        print(task.data, task._metadata)


if __name__ == "__main__":
    main()
