"""Nested states: batching and unbatching, to plain data and back."""

import pytest
import torch

from flexicodec.nn import streaming
from flexicodec.nn.conv import ConvState
from flexicodec.nn.sequential import SequentialState

KNOWN = {kind.__name__: kind for kind in (SequentialState, ConvState)}


def a_state(value, width=3):
    buffer = torch.full((1, 2, width), float(value))
    return SequentialState((ConvState(None, None, buffer, 0, True), None, ConvState(None)), skipped=buffer + 1)


def equal(a, b):
    return streaming.signature(a) == streaming.signature(b) and all(
        map(torch.equal, streaming.tensors(a), streaming.tensors(b))
    )


def test_side_by_side_and_apart():
    items = [a_state(value) for value in range(3)]
    joined = streaming.batch(items)
    assert joined.skipped.shape == (3, 2, 3)
    assert all(map(equal, streaming.unbatch(joined, 3), items))
    assert streaming.batch(items[:1]) is items[0]


def test_states_with_equal_signatures_can_be_batched():
    assert streaming.signature(a_state(0)) == streaming.signature(a_state(1))
    assert streaming.signature(a_state(0)) == streaming.signature(streaming.batch([a_state(0), a_state(1)]))
    assert streaming.signature(a_state(0)) != streaming.signature(a_state(0, width=4))
    assert streaming.signature(ConvState(None)) != streaming.signature(ConvState(None, started=True))


def test_plain_data_and_back(tmp_path):
    state = a_state(5)
    torch.save(streaming.to_plain(state), tmp_path / "state.pt")
    back = streaming.from_plain(torch.load(tmp_path / "state.pt", weights_only=True), KNOWN)
    assert equal(state, back)
    assert streaming.num_bytes(back) == 2 * 4 * 6


@pytest.mark.parametrize(
    "plain", [{"kind": "Popen", "args": []}, {"lengths": None}, {1, 2}, {"kind": "ConvState"}, {"kind": []}]
)
def test_only_known_things_come_back(plain):
    with pytest.raises(ValueError, match="stream state"):
        streaming.from_plain([plain], KNOWN)
