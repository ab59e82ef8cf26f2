"""Flow matching: batches, guidance, training draws and bad input, with a tiny random model."""

import pytest
import torch

from flexicodec.models.tts.config import FlowMatchingConfig
from flexicodec.models.tts.flow_matching import AlignmentHead, FlowMatchingDecoder
from flexicodec.models.tts.flow_sampling import FlowSamplingConfig, sample

CONFIG = FlowMatchingConfig(output_dim=6, dim=16, num_layers=2, num_heads=2, codebook_size=10, alignment_layer=1)
STEPS = FlowSamplingConfig(steps=3)


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FlowMatchingDecoder(CONFIG).eval()
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return model


def inputs(batch=2, codes=5, given=8, seed=0):
    """Codes, noise and prompts."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(CONFIG.codebook_size, (batch, codes), generator=generator)
    noise = torch.randn(batch, 4 * codes - given, CONFIG.output_dim, generator=generator)
    return drawn, noise, torch.randn(batch, given, CONFIG.output_dim, generator=generator)


def test_a_ragged_batch_is_each_item_alone(model):
    codes, noise, prompt = inputs()
    lengths = torch.tensor([12, 7])
    together = sample(model, codes, noise, prompt, lengths, STEPS)
    for row, length in enumerate(lengths.tolist()):
        alone = sample(model, codes[row, None], noise[row, None, :length], prompt[row, None], config=STEPS)
        torch.testing.assert_close(together[row, None, :length], alone, atol=1e-4, rtol=1e-4)
    mixed = sample(model, codes, noise, prompt, lengths, FlowSamplingConfig(3, compatible=True))
    assert not torch.allclose(mixed[0], together[0], atol=1e-3)


def test_without_guidance_the_network_runs_once_a_step(model):
    codes, noise, prompt = inputs()
    seen = []
    sample(model, codes, noise, prompt, config=FlowSamplingConfig(3, 0.0), trace=lambda *step: seen.append(step[3]))
    assert seen == [None] * 3
    sample(model, codes, noise, prompt, config=STEPS, trace=lambda *step: seen.append(step[3]))
    assert all(velocity is not None for velocity in seen[3:])


def test_prompt_and_codes_matter_and_a_prompt_may_be_missing(model):
    codes, noise, prompt = inputs()
    out = sample(model, codes, noise, prompt, config=STEPS)
    assert not torch.allclose(sample(model, codes, noise, prompt + 1, config=STEPS), out)
    assert not torch.allclose(sample(model, (codes + 1) % 10, noise, prompt, config=STEPS), out)
    assert sample(model, codes[:, :3], noise, config=STEPS).shape == noise.shape


def test_gains_are_computed_once_for_all_steps(model, monkeypatch):
    calls = []
    gains = FlowMatchingDecoder.time_gains
    monkeypatch.setattr(FlowMatchingDecoder, "time_gains", lambda self, t: calls.append(len(t)) or gains(self, t))
    sample(model, *inputs(), config=STEPS)
    assert calls == [3]


def test_more_frames_than_codes(model):
    codes, noise, prompt = inputs()
    with pytest.raises(
        ValueError, match=r"8 prompt frames and 12 target frames are more than the codes stand for \(16\)"
    ):
        sample(model, codes[:, :4], noise, prompt)
    lengths = torch.tensor([12, 12])
    with pytest.raises(ValueError, match=r"12 frames are more than 2 codes stand for \(8\)"):
        model(codes[:, :2], noise, lengths, model.draw(lengths, 12))


def test_half_precision(model):
    half = FlowMatchingDecoder(CONFIG).eval()
    half.load_state_dict(model.state_dict())
    half.to(torch.bfloat16)
    out = sample(half, *inputs(), config=STEPS)
    assert out.dtype == torch.float32
    single = sample(model, *inputs(), config=STEPS)
    assert 0 < float((out - single).norm() / single.norm()) < 0.2


def test_every_training_item_keeps_frames_to_learn_from(model):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([100, 20, 3])
    dropped = []
    for _ in range(100):
        draws = model.draw(lengths, 100, generator)
        assert (draws.prompt_lengths < lengths).all()
        assert not draws.prompt_lengths[draws.is_dropped].any()
        assert ((draws.t >= 0) & (draws.t <= 1)).all()
        dropped.append(draws.is_dropped)
    share = torch.stack(dropped).float()
    assert 0.1 < share.mean() < 0.3
    assert (share.std(1) > 0).any()  # item by item
    upstream = [model.draw(lengths, 100, generator, compatible=True) for _ in range(50)]
    assert all(len(set(draws.is_dropped.tolist())) == 1 for draws in upstream)
    assert any((draws.prompt_lengths >= lengths).any() for draws in upstream)


def test_padding_changes_no_loss(model):
    codes, frames, _ = inputs(given=0)
    lengths = torch.tensor([20, 11])
    draws = model.draw(lengths, 20, torch.Generator().manual_seed(2))
    other = frames.clone()
    other[1, 11:] = 7.0
    torch.testing.assert_close(model(codes, frames, lengths, draws).loss, model(codes, other, lengths, draws).loss)


def test_training_learns_by_heart():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FlowMatchingDecoder(CONFIG)
        head = AlignmentHead(CONFIG.dim, 3, 8)
    codes, frames, _ = inputs(given=0)
    features = torch.randn(2, 3, 5)
    lengths = torch.tensor([20, 16])
    draws = model.draw(lengths, 20, torch.Generator().manual_seed(5))
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        out = model(codes, frames, lengths, draws)
        aligned = head(out.alignment, features, lengths)
        (out.loss + aligned).backward()
        optimizer.step()
        losses.append((float(out.loss.detach()), float(aligned.detach())))
    assert losses[-1][0] < 0.5 * losses[0][0]
    assert losses[-1][1] < 0.5 * losses[0][1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FlowSamplingConfig(steps=0), "steps is 0"),
        (lambda: FlowSamplingConfig(guidance=-1), "guidance is -1"),
        (lambda: FlowSamplingConfig(rescale=2), "rescale 2"),
        (lambda: FlowMatchingConfig(dim=24, num_heads=8), "heads of even size"),
    ],
)
def test_settings_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()
