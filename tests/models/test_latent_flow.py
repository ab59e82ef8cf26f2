"""Flow matching to latents: what a frame knows, statistics, prompts; and the front end of characters."""

import pytest
import torch

from flexicodec.merging.durations import unmerge
from flexicodec.models.tts.characters import CharacterConfig, CharacterFrontend, collect_alphabet, spell
from flexicodec.models.tts.config import FlowMatchingConfig
from flexicodec.models.tts.flow_sampling import FlowSamplingConfig, sample
from flexicodec.models.tts.latent_flow import LatentFlow, frame_fields
from flexicodec.models.tts.token_lm import CodeSpace

SPACE = CodeSpace((3, 4), 8)
CONFIG = FlowMatchingConfig(output_dim=5, dim=16, num_layers=2, num_heads=2, codebook_size=12, frames_per_code=1)
CODES = torch.tensor([[7, 9, 5], [3, 0, 0]])
DURATIONS = torch.tensor([[3, 1, 2], [4, 0, 0]])


@pytest.fixture(scope="module")
def flow():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = LatentFlow(CONFIG, SPACE).eval()
        for weight in flow.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return flow


def noise(frames, seed=0):
    return torch.randn(1, frames, 5, generator=torch.Generator().manual_seed(seed))


def test_a_frame_knows_its_code_place_and_duration():
    first, second = frame_fields(CODES, DURATIONS)
    assert first.tolist() == [[7, 0, 3], [7, 1, 3], [7, 2, 3], [9, 0, 1], [5, 0, 2], [5, 1, 2]]
    assert second.tolist() == [[3, place, 4] for place in range(4)] + [[0, 0, 1]] * 2
    repeated = unmerge(CODES[:, None].float(), DURATIONS)[:, 0].long()
    assert torch.equal(frame_fields(CODES, DURATIONS)[..., 0], repeated)


@pytest.mark.parametrize("field", [0, 1, 2])
def test_each_field_matters_at_its_frame(flow, field):
    fields = frame_fields(CODES[:1], DURATIONS[:1])
    changed = fields.clone()
    changed[0, 0, field] += 1
    difference = (flow.embed_codes(fields) - flow.embed_codes(changed)).abs().amax(-1)[0]
    assert difference[0] > 0.01
    assert not difference[1:].any()


def test_statistics_are_stored_and_undone(flow):
    latents = 3 * torch.randn(1, 5, 400, generator=torch.Generator().manual_seed(0)) + 7
    latents[:, 4] = 2.0  # a constant channel
    flow.fit(latents[0])
    standard = flow.standardise(latents)
    assert standard.mean((0, 1)).abs().max() < 1e-3
    torch.testing.assert_close(standard.std((0, 1))[:4], torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(flow.restore(standard), latents)
    again = LatentFlow(CONFIG, SPACE)
    again.load_state_dict(flow.state_dict())
    assert torch.equal(again.standardise(latents), standard)


def test_the_loss_of_a_padded_batch_is_that_of_its_items(flow):
    fields = frame_fields(CODES, DURATIONS)
    latents = torch.cat([noise(6, 1), noise(6, 2)])
    draws = flow.draw(torch.tensor([6, 4]), 6, torch.Generator().manual_seed(3))
    together = flow(fields, latents, torch.tensor([6, 4]), draws)
    alone = type(draws)(draws.t[1:], draws.noise[1:, :4], draws.prompt_lengths[1:], draws.is_dropped[1:])
    single = flow(fields[1:, :4], latents[1:, :4], torch.tensor([4]), alone)
    torch.testing.assert_close(together.velocity[1:, :4], single.velocity, atol=1e-4, rtol=1e-4)
    assert together.counted[1].sum() == single.counted.sum() == 4 - draws.prompt_lengths[1]


def test_a_prompt_is_given_and_matters(flow):
    fields = frame_fields(CODES[:1], DURATIONS[:1])
    config = FlowSamplingConfig(3, 1.0)
    out = sample(flow, fields, noise(4), noise(2, 5), config=config)
    assert out.shape == (1, 4, 5)
    assert not torch.allclose(sample(flow, fields, noise(4), noise(2, 6), config=config), out)
    with pytest.raises(ValueError, match="more than the codes stand for"):
        sample(flow, fields, noise(7), config=config)


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_the_last_step_arrives_at_the_estimated_end(flow, monkeypatch, steps):
    """With an estimate that is right the path leads there, in any number of steps."""
    end = noise(6, 9)
    monkeypatch.setattr(type(flow).__mro__[1], "velocity", lambda self, x, *others: end)
    out = sample(flow, frame_fields(CODES[:1], DURATIONS[:1]), noise(6), config=FlowSamplingConfig(steps, 0.0))
    torch.testing.assert_close(out, end, atol=1e-4, rtol=1e-4)


def test_only_one_frame_a_code():
    with pytest.raises(ValueError, match="frames_per_code is 4"):
        LatentFlow(FlowMatchingConfig(), SPACE)


# -------------------------------------------------------------------------------------------------------- characters

ENGLISH = CharacterFrontend(CharacterConfig(" 'abcdefghijklmnopqrstuvwxyz,."))


def letters(front_end, text):
    return "".join(front_end.config.alphabet[number] for number in front_end.encode(text))


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("HELLO there", "hello there"),
        ("  two\n lines\t", "two lines"),
        ("don\u2019t", "don't"),
        ("Yes, well.", "yes, well."),
        ("what?! (really) \u2013 yes", "what really yes"),  # marks that were not in training
        ("\uff41\uff42", "ab"),  # full width
    ],
)
def test_spelling(text, spelt):
    assert letters(ENGLISH, text) == spelt


def test_composed_and_decomposed_letters_are_alike():
    german = CharacterFrontend(CharacterConfig(" \u00e4bc"))
    assert german.encode("\u00c4b") == german.encode("A\u0308b") == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is empty"),
        (" \n", "the text is empty"),
        ("\u2013 !", "holds nothing that is spoken"),
        ("in 1984", r"not in training \(1984\); write numbers in words"),
        ("\u4f60\u597d", "not in training .*in another language"),
    ],
)
def test_texts_that_cannot_be_spelt(text, message):
    with pytest.raises(ValueError, match=message):
        ENGLISH.encode(text)


def test_the_alphabet_is_that_of_the_texts():
    texts = [spell(text, CharacterConfig()) for text in ("Ba", "c,")]
    assert collect_alphabet(texts) == " ,abc"
    assert collect_alphabet([]) == " "
    for wrong in ("abc", " aa"):
        with pytest.raises(ValueError, match="each character once, and a space"):
            CharacterConfig(wrong)
    with pytest.raises(ValueError, match="alphabet is missing"):
        CharacterFrontend(CharacterConfig())
