"""States as trees: side by side and apart again, to plain data and back."""

import pytest
import torch

from flexicodec.blocks import states
from flexicodec.blocks.chain import ChainState
from flexicodec.blocks.conv import ConvState

KNOWN = {kind.__name__: kind for kind in (ChainState, ConvState)}


def a_state(value, width=3):
    buffer = torch.full((1, 2, width), float(value))
    return ChainState((ConvState(None, None, buffer, 0, True), None, ConvState(None)), skipped=buffer + 1)


def equal(a, b):
    return states.form(a) == states.form(b) and all(map(torch.equal, states.tensors(a), states.tensors(b)))


def test_side_by_side_and_apart():
    items = [a_state(value) for value in range(3)]
    joined = states.join(items)
    assert joined.skipped.shape == (3, 2, 3)
    assert all(map(equal, states.part(joined, 3), items))
    assert states.join(items[:1]) is items[0]


def test_alike_is_what_can_stand_side_by_side():
    assert states.form(a_state(0)) == states.form(a_state(1))
    assert states.form(a_state(0)) == states.form(states.join([a_state(0), a_state(1)]))
    assert states.form(a_state(0)) != states.form(a_state(0, width=4))
    assert states.form(ConvState(None)) != states.form(ConvState(None, started=True))


def test_plain_data_and_back(tmp_path):
    state = a_state(5)
    torch.save(states.to_plain(state), tmp_path / "state.pt")
    back = states.from_plain(torch.load(tmp_path / "state.pt", weights_only=True), KNOWN)
    assert equal(state, back)
    assert states.num_bytes(back) == 2 * 4 * 6


@pytest.mark.parametrize(
    "plain", [{"kind": "Popen", "args": []}, {"lengths": None}, {1, 2}, {"kind": "ConvState"}, {"kind": []}]
)
def test_only_known_things_come_back(plain):
    with pytest.raises(ValueError, match="stream state"):
        states.from_plain([plain], KNOWN)
