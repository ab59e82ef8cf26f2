"""The front end on awkward signals, against FunASR's; and the families without a comparison so far."""

import re

import pytest
import torch
from golden_cases import disagreements

from flexicodec.encoders.base import FrontEndConfig
from flexicodec.encoders.fbank import KaldiFbank, stack_frames
from flexicodec.models.flexicodec.convert_upstream import sensevoice_cmvn


def test_signal(front_end_case, signal):
    tensors = front_end_case.tensors
    front_end = KaldiFbank(FrontEndConfig(dither=0.0), tensors.get("cmvn", sensevoice_cmvn()))
    audio = tensors[f"{signal}/audio"][None]
    fbank, features = front_end.fbank(audio)[0], front_end(audio)[0]
    ours = {"fbank": fbank, "fbank_knf": fbank, "features": features}
    recorded = {name: tensors[f"{signal}/{name}"] for name in ours if f"{signal}/{name}" in tensors}
    assert recorded
    assert disagreements(ours, recorded) == []


def test_stacking(front_end_case):
    toys = [name for name in front_end_case.tensors if re.fullmatch(r"lfr_toy/in\d+", name)]
    if not toys:
        pytest.skip("no stacking was recorded")
    for name in toys:
        frames, expected = front_end_case.tensors[name], front_end_case.tensors[name.replace("/in", "/out")]
        assert torch.equal(stack_frames(frames[None], torch.tensor([len(frames)]), 7, 6)[0], expected), name


def test_family_without_a_comparison(other_case):
    pytest.skip(
        f"{other_case.name}: nothing here reads the tensors of this folder; see find_cases for what a case looks like"
    )
