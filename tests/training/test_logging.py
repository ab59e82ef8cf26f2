"""Metrics, GAN balance, progress and trackers: counts, displays, and files that are read back."""

import io
import json
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.tracking import GeneralTracker

from flexicodec.audio import read_audio
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.tokens import TokenFormat, Tokens
from flexicodec.training.config import DataConfig, InitConfig, TrainingConfig
from flexicodec.training.discriminators.layers import DiscriminatorOutput
from flexicodec.training.gan_losses import LOSS_OVER_CHANCE, gan_balance
from flexicodec.training.logging import (
    BalanceAlarm,
    Progress,
    TrainingMetrics,
    log_histogram,
    log_samples,
    make_accelerator,
    media,
    metrics,
    perplexity,
    read_curves,
    trackers,
    truncate_curves,
)
from flexicodec.training.logging.progress import WARM_UP_ROWS


class OneProcess:
    """The part of an accelerator that metrics, bars and pictures need; keeps rows."""

    device = torch.device("cpu")
    num_processes = 1
    is_main_process = True

    def __init__(self, *trackers):
        self.trackers, self.rows = list(trackers), []

    def reduce(self, tensors, reduction):
        assert reduction == "sum"
        return tensors

    def log(self, row, step):
        self.rows.append((step, row))


class Recording(OneProcess):
    """The first of two processes: records the data it would send."""

    num_processes = 2

    def __init__(self):
        super().__init__()
        self.sent = []

    def reduce(self, tensors, reduction):
        self.sent.append(tensors)
        return tensors


class Summing(OneProcess):
    """The second process: receives the data of the first one."""

    num_processes = 2

    def __init__(self, sent):
        super().__init__()
        self.sent = iter(sent)

    def reduce(self, tensors, reduction):
        other = next(self.sent)
        if isinstance(tensors, dict):
            assert tensors.keys() == other.keys()
            return {name: tensors[name] + other[name] for name in tensors}
        return tensors + other


def small_metrics(**changes):
    settings = {"num_codebooks": 2, "codebook_size": 4, "semantic_size": 8, "max_duration": 4, "base_frame_rate": 12.5}
    return TrainingMetrics(**settings | changes)


def scalar(value):
    return torch.tensor(float(value), requires_grad=True)


def add_random(into, seed, items=3):
    """A batch's worth of everything."""
    random = torch.Generator().manual_seed(seed)
    durations = torch.randint(0, 5, (items, 7), generator=random)
    durations[:, 0] += durations.sum(1) == 0
    into.add_tokens(
        torch.randint(0, 8, (items, 7), generator=random),
        torch.randint(0, 4, (items, 2, 7), generator=random),
        durations,
        torch.randint(0, 3, (items,), generator=random),
    )
    into.add_losses({"mel": scalar(seed + 1), "total": scalar(2 * seed)}, items)
    into.add_value("grad_norm/generator", float(seed))


# ---------------------------------------------------------------------------------------------------------- metrics


def test_a_codec_without_semantic_codes_has_no_metrics_of_them():
    seen = small_metrics(semantic_size=None, max_duration=1)
    seen.add_tokens(
        None, torch.tensor([[[0, 1, 1], [3, 3, 0]]]), torch.tensor([[1, 1, 0]]), torch.tensor([2], dtype=torch.int64)
    )
    row = seen.row(OneProcess())
    assert {name for name in row if name.startswith("codebook/")} == {
        *(f"codebook/acoustic_0{book}/{what}" for book in (1, 2) for what in ("perplexity", "use")),
        "codebook/tokens",
    }
    assert row["codebook/acoustic_01/perplexity"] == pytest.approx(2)
    assert (row["codebook/acoustic_02/perplexity"], row["rate/frame_rate"]) == (pytest.approx(1), 12.5)


def test_perplexity_counts_the_codes_in_use():
    assert float(perplexity(torch.full((50,), 3))) == pytest.approx(50)
    assert float(perplexity(torch.tensor([0, 9, 0]))) == 1
    assert float(perplexity(torch.tensor([0, 0]))) == 1
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    torch.testing.assert_close(perplexity(torch.tensor([[3, 1], [5, 5]])), torch.tensor([expected, 2.0]).double())


def test_padding_and_codebooks_out_of_use_are_not_counted():
    seen = small_metrics()
    seen.add_tokens(
        semantic=torch.tensor([[0, 1, 7], [2, 3, 7]]),  # the 7 are padding
        acoustic=torch.tensor([[[0, 1, 3], [2, 2, 3]], [[0, 0, 3], [1, 1, 1]]]),
        durations=torch.tensor([[1, 4, 0], [2, 1, 0]]),
        num_codebooks=torch.tensor([2, 1]),  # the second clip's second codebook is out of use
    )
    row = seen.row(OneProcess())
    assert row["codebook/semantic/perplexity"] == pytest.approx(4)
    assert row["codebook/semantic/use"] == 4 / 8
    assert row["codebook/acoustic_01/perplexity"] == pytest.approx(float(perplexity(torch.tensor([3, 1]))))
    assert row["codebook/acoustic_01/use"] == 2 / 4
    assert row["codebook/acoustic_02/perplexity"] == 1
    assert row["codebook/acoustic_02/use"] == 1 / 4
    assert row["codebook/tokens"] == 4


def test_a_codebook_that_nobody_used_has_no_metrics():
    seen = small_metrics()
    codes = torch.zeros(1, 3, dtype=torch.int64)
    seen.add_tokens(codes, torch.zeros(1, 2, 3, dtype=torch.int64), codes + 1, torch.tensor([1]))
    row = seen.row(OneProcess())
    assert "codebook/acoustic_01/use" in row
    assert "codebook/acoustic_02/use" not in row


def test_a_codec_without_acoustic_codebooks_is_counted():
    seen = small_metrics(num_codebooks=0)
    codes = torch.zeros(1, 3, dtype=torch.int64)
    seen.add_tokens(codes, torch.zeros(1, 0, 3, dtype=torch.int64), codes + 1, torch.tensor([0]))
    assert seen.row(OneProcess())["codebook/semantic/use"] == 1 / 8


def test_durations_make_rate_mean_and_shares():
    seen = small_metrics()
    seen.add_tokens(
        torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(2, 2, 3, dtype=torch.int64),
        torch.tensor([[1, 4, 1], [4, 0, 0]]),
        torch.tensor([0, 0]),
    )
    row = seen.row(OneProcess())
    assert row["rate/frame_rate"] == pytest.approx(4 / (10 / 12.5))
    assert row["duration/mean"] == 2.5
    assert [row[f"duration/share_{frames}"] for frames in (1, 2, 3, 4)] == [0.5, 0, 0, 0.5]
    assert seen.duration_histogram.tolist() == [2, 0, 0, 2]


def test_without_a_cap_the_last_share_takes_what_is_longer():
    seen = small_metrics(max_duration=None)
    codes = torch.zeros(1, 3, dtype=torch.int64)
    seen.add_tokens(codes, codes[:, None].expand(1, 2, 3), torch.tensor([[1, 32, 99]]), torch.tensor([2]))
    row = seen.row(OneProcess())
    assert row["duration/mean"] == 44
    assert row["duration/share_32"] == pytest.approx(2 / 3)
    assert sum(value for name, value in row.items() if "share" in name) == pytest.approx(1)


def test_losses_are_weighted_by_items_and_values_are_not():
    seen = small_metrics()
    seen.add_losses({"mel": scalar(10), "adversarial": scalar(3)}, items=4)
    seen.add_losses({"mel": scalar(2)}, items=1)
    seen.add_losses({"real_score": scalar(3)}, items=4, group="balance")
    seen.add_value("grad_norm/generator", 1.0)
    seen.add_value("grad_norm/generator", scalar(4))
    row = seen.row(OneProcess())
    assert row.pop("non_finite") == 0
    assert row == pytest.approx(
        {"loss/mel": 12 / 5, "loss/adversarial": 3 / 4, "balance/real_score": 3 / 4, "grad_norm/generator": 2.5}
    )


def test_a_row_is_about_what_came_since_the_last():
    seen, alone = small_metrics(), small_metrics()
    add_random(seen, 0)
    seen.row(OneProcess())
    for into in (seen, alone):
        add_random(into, 1)
    assert seen.row(OneProcess()) == alone.row(OneProcess())
    assert seen.row(OneProcess()) == {"non_finite": 0}


def test_one_bad_step_does_not_spoil_a_row():
    seen = small_metrics()
    for value in (1.0, math.nan, 3.0, math.inf):
        seen.add_losses({"mel": scalar(value)}, items=1)
    seen.add_losses({"repa": scalar(math.nan)}, items=1)
    assert seen.row(OneProcess()) == {"loss/mel": 2, "non_finite": 3}


def test_two_processes_make_the_row_of_one(monkeypatch):
    first, second, both = (small_metrics() for _ in range(3))
    for into in (first, both):
        add_random(into, 1, items=2)
        into.add_value("skipped", 1.0)  # in this process only
    for into in (second, both):
        add_random(into, 2, items=5)
        into.add_losses({"repa": scalar(1)}, items=5)
    monkeypatch.setattr(metrics, "gather_object", lambda names: [*names, "skipped", "loss/repa"])
    recording = Recording()
    first.row(recording)
    assert second.row(Summing(recording.sent)) == pytest.approx(both.row(OneProcess()))
    assert torch.equal(second.duration_histogram, both.duration_histogram)


# ----------------------------------------------------------------------------------------------------------- balance


def outputs(*scores):
    return [DiscriminatorOutput(torch.tensor(each), []) for each in scores]


@pytest.mark.parametrize(("kind", "fake", "middle"), [("lsgan", 0.0, 0.5), ("hinge", -1.0, 0.0)])
def test_balance_of_perfect_discriminators_and_of_chance(kind, fake, middle):
    real = outputs([[1.0, 1.0], [1.0, 1.0]], [[1.0], [1.0]])
    made = outputs([[fake, fake], [fake, fake]], [[fake], [fake]])
    found = gan_balance(real, made, kind)
    assert found["loss_over_chance"].tolist() == [0, 0]
    assert found["accuracy"].tolist() == [1, 1]
    assert found["real_score"].tolist() == [1, 1]
    assert found["fake_score"].tolist() == [fake, fake]
    guess = outputs([[middle, middle], [middle, middle]], [[middle], [middle]])
    assert gan_balance(guess, guess, kind)["loss_over_chance"].tolist() == [1, 1]
    assert gan_balance(made, real, kind)["accuracy"].tolist() == [0, 0]


def test_discriminators_count_alike_whatever_their_size():
    found = gan_balance(outputs([[1.0, 1.0, 1.0]], [[0.0]]), outputs([[0.0, 0.0, 0.0]], [[0.0]]), "lsgan")
    assert found["real_score"].tolist() == [0.5]
    assert found["accuracy"].tolist() == [0.75]


def test_the_alarm_reports_when_something_changes():
    alarm = BalanceAlarm()
    assert alarm({"loss/mel": 1.0}) is None
    assert alarm({LOSS_OVER_CHANCE: 0.5}) is None
    assert "0.05 times that of guessing: they are hardly ever wrong" in alarm({LOSS_OVER_CHANCE: 0.05})
    assert alarm({LOSS_OVER_CHANCE: 0.04}) is None
    assert "balanced again" in alarm({LOSS_OVER_CHANCE: 0.3})


def test_new_discriminators_may_be_poor_for_a_while():
    alarm = BalanceAlarm()
    said = [alarm({LOSS_OVER_CHANCE: 1.2}) for _ in range(WARM_UP_ROWS + 2)]
    assert said[:WARM_UP_ROWS] == [None] * WARM_UP_ROWS
    assert "the codec learns nothing" in said[WARM_UP_ROWS]
    assert said[WARM_UP_ROWS + 1] is None


# ---------------------------------------------------------------------------------------------------------- progress


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_file_gets_a_line_per_row():
    accelerator, file, clock = OneProcess(), io.StringIO(), Clock()
    with Progress(accelerator, steps=100, done=50, file=file, clock=clock) as progress:
        for _ in range(2):
            clock.now += 2.0
            progress.advance(3.0)
        with progress.paused():
            clock.now += 100.0
        progress.log({"loss/mel": 1.25, "loss/total": 40.0, "rate/frame_rate": 8.0}, step=52)
        progress.log({"validation/mel": 2.0}, step=52)
    line, validation = file.getvalue().splitlines()
    assert line.startswith("step 52/100  mel 1.25  total 40  1.5 s of audio per s")
    assert line.endswith("41:36 to go")  # 48 steps at 52 s, pauses included
    assert validation.startswith("step 52/100  validation/mel 2")
    (_, row), (_, second) = accelerator.rows
    assert row["speed/audio_seconds_per_second"] == 1.5
    assert row["speed/steps_per_second"] == 0.5
    assert second == {"validation/mel": 2.0}


def test_a_terminal_gets_a_bar():
    file = Terminal()
    with Progress(OneProcess(), steps=3, file=file) as progress:
        progress.advance(1.0)
        progress.log({"loss/mel": 1.25, "loss/total": 40.0}, step=1)
        progress.log({LOSS_OVER_CHANCE: 0.01}, step=1)
    shown = file.getvalue()
    assert "1/3" in shown
    assert "loss 40  " in shown
    assert "step 1: the discriminators' loss is 0.01 times" in shown


def test_other_processes_show_nothing():
    accelerator, file = OneProcess(), Terminal()
    accelerator.is_main_process = False
    with Progress(accelerator, steps=3, file=file) as progress:
        progress.advance(1.0)
        progress.log({"loss/mel": 1.0}, step=1)
    assert file.getvalue() == ""


# ---------------------------------------------------------------------------------------------------------- trackers


@pytest.fixture
def config(tmp_path):
    return TrainingConfig(
        output=str(tmp_path / "run"),
        model=FlexiCodecConfig(),
        data=DataConfig(manifest=("a.jsonl", "b.jsonl")),
        init_from=(InitConfig("flexicodec-mini"),),
    )


def events(config):
    """Open the run's TensorBoard events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(f"{config.output}/logs/run", size_guidance={"images": 0, "audio": 0, "histograms": 0})
    return found.Reload()


def test_settings_become_one_level_of_plain_values():
    nested = {"model": {"width": 2, "merging": None, "strides": [4, 2]}, "init": [{"source": "x"}], "none": {}}
    assert trackers.flatten_settings(nested) == {
        "model.width": 2,
        "model.merging": "null",
        "model.strides": "[4, 2]",
        "init": '[{"source": "x"}]',
        "none": "{}",
    }


def test_unknown_and_absent_trackers_are_refused(config, monkeypatch):
    with pytest.raises(ValueError, match="names 'tensorbord', expected some of jsonl.*tensorboard"):
        make_accelerator(replace(config, trackers=("tensorbord",)))
    monkeypatch.setattr(trackers, "get_available_trackers", list)
    with pytest.raises(ValueError, match="'wandb', whose package is not installed"):
        make_accelerator(replace(config, trackers=("jsonl", "wandb")))


def test_a_run_may_have_no_trackers(config):
    accelerator = make_accelerator(replace(config, trackers=()))
    accelerator.log({"loss/mel": 1.0}, step=1)
    assert accelerator.trackers == []


def test_rows_come_back_from_both_files(config):
    accelerator = make_accelerator(config)
    for step in (1, 2, 3):
        accelerator.log({"loss/mel": 1 / step, "rate/frame_rate": 8.0}, step=step)
    accelerator.log({"loss/mel": math.nan}, step=4)
    accelerator.end_training()
    curve = [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]  # JSON has no NaN
    assert read_curves(f"{config.output}/curves.jsonl")["loss/mel"] == curve
    shown = events(config)
    assert [(each.step, each.value) for each in shown.Scalars("loss/mel")][:3] == curve
    assert math.isnan(shown.Scalars("loss/mel")[-1].value)


def test_a_resumed_run_goes_on_with_its_curves(config):
    for start, values in ((0, (1, 2, 3, 4)), (2, (30, 40))):
        accelerator = make_accelerator(config, done=start)
        for step, value in enumerate(values, start + 1):
            accelerator.log({"loss/mel": float(value)}, step=step)
        accelerator.end_training()
    expected = [(1, 1), (2, 2), (3, 30), (4, 40)]
    assert read_curves(f"{config.output}/curves.jsonl")["loss/mel"] == expected
    assert [(each.step, each.value) for each in events(config).Scalars("loss/mel")] == expected


def test_a_half_written_row_is_cut(tmp_path):
    path = tmp_path / "curves.jsonl"
    path.write_text('{"step": 1, "loss/mel": 2.0}\n{"step": 2, "loss/mel": 1.0}\n{"step": 3, "lo')
    truncate_curves(path, done=9)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    truncate_curves(path, done=0)
    assert path.read_text() == ""


# ---------------------------------------------------------------------------------------------------------- pictures


@pytest.fixture
def clip():
    """Half a second of audio, a degraded copy, and tokens."""
    random = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(7000, generator=random)
    tokens = Tokens([[0, 1, 2]], None, [[1, 3, 2]], [7000], format=TokenFormat())
    return audio, 0.5 * audio[None], tokens


def test_samples_pictures_and_histograms_reach_tensorboard(config, clip):
    audio, decoded, tokens = clip
    accelerator = make_accelerator(config)
    for step in (5, 10):
        log_samples(accelerator, step, 16_000, [audio], [decoded], [tokens], config.output)
    log_histogram(accelerator, 10, "duration", torch.tensor([2, 0, 1]))
    log_histogram(accelerator, 10, "empty", torch.tensor([0, 0]))
    accelerator.end_training()
    shown = events(config)
    tags = shown.Tags()
    assert tags["audio"] == ["samples/clip-00/original", "samples/clip-00/decoded"]
    assert tags["images"] == ["tokens/clip-00/original", "tokens/clip-00/decoded"]
    assert [each.step for each in shown.Audio("samples/clip-00/original")] == [5]
    assert [(each.step, each.sample_rate) for each in shown.Audio("samples/clip-00/decoded")] == [(5, 16e3), (10, 16e3)]
    picture = shown.Images("tokens/clip-00/decoded")[0]
    assert (picture.width, picture.height) == (1300, 510)
    (histogram,) = shown.Histograms("duration")
    assert histogram.histogram_value.bucket == [2, 0, 1]
    assert histogram.histogram_value.sum == 5
    assert tags["histograms"] == ["duration"]

    folder = f"{config.output}/samples/step-0000010"
    np.testing.assert_allclose(read_audio(f"{folder}/clip-00-original.flac")[0], audio, atol=2**-15)
    np.testing.assert_allclose(read_audio(f"{folder}/clip-00-decoded.flac"), decoded, atol=2**-15)


def test_a_diverged_codec_is_still_saved(tmp_path, clip):
    audio, decoded, tokens = clip
    wild = torch.where(audio > 0, math.nan, 1e9)
    log_samples(OneProcess(), 1, 16_000, [audio], [wild], [tokens], tmp_path, label="6.25hz")
    assert read_audio(tmp_path / "samples/step-0000001/clip-00-6.25hz.flac").abs().max() <= 1
    assert (tmp_path / "samples/step-0000001/clip-00-6.25hz.png").exists()


def test_only_the_main_process_writes(tmp_path, clip):
    audio, decoded, tokens = clip
    accelerator = OneProcess()
    accelerator.is_main_process = False
    log_samples(accelerator, 1, 16_000, [audio], [decoded], [tokens], tmp_path)
    assert not list(tmp_path.iterdir())


class Keeper(GeneralTracker):
    """Records its arguments."""

    name, requires_logging_directory, tracker = "mlflow", False, None

    def __init__(self):
        super().__init__()
        self.got = {}

    def log(self, values, step, **kwargs):
        self.got |= values


class Seeing(Keeper):
    """As Accelerate's tracker for wandb."""

    name = "wandb"

    def log_images(self, values, step, **kwargs):
        self.got |= values


def test_other_trackers_get_what_they_can_show(tmp_path, clip, monkeypatch, caplog):
    audio, decoded, tokens = clip
    kinds = {kind: (lambda *args, _kind=kind, **kwargs: (_kind, kwargs)) for kind in ("Audio", "Histogram")}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(**kinds))
    media._warn_once.cache_clear()
    wandb, keeper = Seeing(), Keeper()
    for step in (1, 2):
        log_samples(OneProcess(wandb, keeper), step, 16_000, [audio], [decoded], [tokens], tmp_path)
    log_histogram(OneProcess(wandb, keeper), 2, "duration", torch.tensor([2, 1]))
    assert wandb.got["samples/clip-00/decoded"] == ("Audio", {"sample_rate": 16_000})
    assert wandb.got["tokens/clip-00/decoded"][0].shape == (510, 1300, 3)
    assert wandb.got["duration"][0] == "Histogram"
    assert keeper.got == {}
    assert [record.message for record in caplog.records].count(
        "the tracker mlflow takes no audio; samples are in the run's folder"
    ) == 1


def test_without_matplotlib_there_is_audio(tmp_path, clip, monkeypatch, caplog):
    audio, decoded, tokens = clip
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    media._warn_once.cache_clear()
    log_samples(OneProcess(), 1, 16_000, [audio], [decoded], [tokens], tmp_path)
    assert {path.suffix for path in (tmp_path / "samples/step-0000001").iterdir()} == {".flac"}
    assert "no pictures" in caplog.text
