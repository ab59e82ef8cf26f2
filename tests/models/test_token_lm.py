"""The language model of tokens: digits, losses, batches, causality, generation and its limits."""

from dataclasses import replace

import pytest
import torch
from transformers import Qwen2Config

from flexicodec.config import from_dict, to_dict
from flexicodec.models.tts.digits import CodeEmbedding, CodeHead, code_digits
from flexicodec.models.tts.generation import GenerationConfig
from flexicodec.models.tts.sampling import GREEDY, Sampling, repeats
from flexicodec.models.tts.token_generation import generate_tokens
from flexicodec.models.tts.token_lm import BackboneConfig, CodeSpace, LMBatch, TokenLM, TokenLMConfig
from flexicodec.quantize.fsq import fsq_decode

SPACE = CodeSpace((4, 3, 5), 8)
LETTERS = 11
CONFIG = TokenLMConfig(BackboneConfig(2, 16, 2, 24, dropout=0.0), head_dim=12)
MANY = GenerationConfig(min_tokens=4, max_frames=20)


def make(config=CONFIG, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TokenLM(config, SPACE, LETTERS).eval()
        for weight in model.parameters():
            if weight.ndim == 2:
                torch.nn.init.normal_(weight, std=0.4)
    return model


@pytest.fixture(scope="module", params=["chained", "independent", "flat"])
def model(request):
    return make(replace(CONFIG, codes=request.param))


@pytest.fixture(scope="module")
def chained():
    return make()


def examples(text=(6, 2, 4), tokens=(5, 3, 0), seed=0):
    """Ragged items; what lies behind their lengths is no zero."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low, high, columns):
        return torch.randint(low, high, (len(text), columns), generator=generator)

    return LMBatch(
        integers(0, LETTERS, max(text)),
        torch.tensor(text),
        integers(0, SPACE.size, max(*tokens, 1)),
        integers(1, SPACE.max_duration + 1, max(*tokens, 1)),
        torch.tensor(tokens),
        torch.tensor([6.25, 0.0, 12.5])[: len(text)],
    )


def alone(batch, row):
    """One item without padding."""
    letters, count = int(batch.text_lengths[row]), int(batch.token_lengths[row])
    item = slice(row, row + 1)
    return LMBatch(
        batch.text[item, :letters],
        batch.text_lengths[item],
        batch.codes[item, :count],
        batch.durations[item, :count],
        batch.token_lengths[item],
        batch.frame_rate[item],
    )


def test_digits_are_those_of_the_quantizer():
    codes = torch.arange(SPACE.size)
    values = fsq_decode(codes, SPACE.levels)  # (digit - L // 2) / (L // 2)
    for number, (digit, level) in enumerate(zip(code_digits(codes, SPACE.levels), SPACE.levels, strict=True)):
        torch.testing.assert_close((digit - level // 2) / (level // 2), values[:, number])
    embedding = CodeEmbedding(SPACE.levels, 6)
    assert len(embedding(codes).unique(dim=0)) == SPACE.size
    torch.testing.assert_close(embedding(codes), torch.stack(embedding.each(codes)).sum(0))


@pytest.mark.parametrize("levels", [SPACE.levels, (SPACE.size,)])
@pytest.mark.parametrize("chained", [True, False])
def test_probabilities_of_all_codes_and_the_end_add_up_to_one(levels, chained):
    head = CodeHead(levels, 7, 9, chained=chained)
    hidden = torch.randn(1, 7, generator=torch.Generator().manual_seed(1))
    codes = torch.cat([torch.arange(SPACE.size), torch.zeros(1, dtype=torch.long)])
    is_end = torch.arange(SPACE.size + 1) == SPACE.size
    nats = head.nats(hidden.expand(len(codes), -1), codes, is_end)
    assert (-nats).exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_codes_are_drawn_as_often_as_their_probability(chained):
    head = CodeHead((3, 2), 4, 8)
    hidden = torch.randn(1, 4, generator=torch.Generator().manual_seed(2)) * 3
    many = hidden.expand(4000, -1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(4000)]
    codes, is_end = head.draw(many, Sampling(top_k=None), generators)
    seen = torch.bincount(codes.masked_fill(is_end, 6), minlength=7) / 4000
    ids = torch.tensor([0, 1, 2, 3, 4, 5, 0])
    expected = (-head.nats(many[:7], ids, torch.arange(7) == 6)).exp()
    torch.testing.assert_close(seen, expected.detach(), atol=0.03, rtol=0)
    assert not head.draw(many, Sampling(), generators, end_allowed=False)[1].any()


def test_a_padded_batch_is_each_item_alone(model):
    batch = examples()
    together = model(batch)
    for row in range(3):
        single = model(alone(batch, row))
        torch.testing.assert_close(together.codes[row], single.codes[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.durations[row], single.durations[0], atol=1e-4, rtol=1e-4)
    assert together.durations[2] == 0  # no tokens, but an end
    assert together.codes[2] > 0


def test_nothing_sees_what_comes_later(chained):
    """-log p of the tokens of a prefix does not depend on the tokens behind it."""
    chained.train()  # as in training, without a cache
    batch = alone(examples(), 0)

    def prefix_nats(codes, durations):
        cut = replace(batch, codes=codes, durations=durations, token_lengths=torch.tensor([codes.shape[1]]))
        found = chained(cut)
        return float((found.codes + found.durations).detach())

    whole = [prefix_nats(batch.codes[:, :count], batch.durations[:, :count]) for count in (1, 2, 3)]
    changed = batch.codes.clone()
    changed[0, 0] = (changed[0, 0] + 1) % SPACE.size
    assert prefix_nats(changed[:, :3], batch.durations[:, :3]) != pytest.approx(whole[2], abs=1e-3)
    x = torch.stack(chained.embed(batch))
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    later = x.clone()
    later[:, -1] += 1
    torch.testing.assert_close(chained.hidden(x, mask)[:, :-1], chained.hidden(later, mask)[:, :-1])
    first = x.clone()
    first[:, 0] += 1  # the last position sees the first one
    assert (chained.hidden(first, mask)[:, -1] - chained.hidden(x, mask)[:, -1]).abs().max() > 1e-3
    chained.eval()


def test_rate_text_and_duration_matter(chained):
    batch = alone(examples(), 0)
    base = chained(batch).codes
    assert not torch.allclose(chained(replace(batch, frame_rate=torch.tensor([3.0]))).codes, base)
    assert not torch.allclose(chained(replace(batch, frame_rate=torch.tensor([0.0]))).codes, base)
    assert not torch.allclose(chained(replace(batch, text=batch.text.roll(1, 1))).codes, base)
    assert not torch.allclose(chained(replace(batch, durations=batch.durations % 8 + 1)).codes, base)


def test_every_weight_gets_a_gradient(chained):
    nats = chained(examples())
    (nats.codes.sum() + nats.durations.sum()).backward()
    missing = [name for name, weight in chained.named_parameters() if weight.grad is None]
    chained.zero_grad()
    assert not missing


def test_a_duration_is_drawn_seeing_its_code(chained):
    hidden = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)).expand(SPACE.size, -1)
    logits = chained.duration_head(hidden, torch.arange(SPACE.size))
    assert len(logits.round(decimals=4).unique(dim=0)) == SPACE.size


@pytest.mark.parametrize("tokens", [GREEDY, Sampling(0.9, 4, 0.9), Sampling(repetition_window=6)])
def test_generation_of_a_batch_is_that_of_each_item(model, tokens):
    prompts = examples()
    together = generate_tokens(model, prompts, replace(MANY, tokens=tokens, seed=(5, 6, 7)))
    for row in range(3):
        single = generate_tokens(model, alone(prompts, row), replace(MANY, tokens=tokens, seed=5 + row))
        count = int(single.lengths[0])
        assert together.lengths[row] == count
        assert torch.equal(together.tokens[row, :count], single.tokens[0])
        assert torch.equal(together.durations[row, :count], single.durations[0])
        assert together.reached_limit[row] == single.reached_limit[0]
        assert not together.durations[row, count:].any()


def test_the_cache_changes_nothing(chained):
    """Greedy tokens are those with the lowest -log p, computed without a cache."""
    prompts = alone(examples(), 1)
    made = generate_tokens(chained, prompts, replace(MANY, tokens=GREEDY))
    count = int(made.lengths[0])
    codes = torch.cat([prompts.codes, made.tokens], dim=1)
    durations = torch.cat([prompts.durations, made.durations], dim=1)
    whole = replace(prompts, codes=codes, durations=durations, token_lengths=prompts.token_lengths + count)
    (sequence,) = chained.embed(whole)
    hidden = chained.hidden(sequence[None], torch.ones(1, len(sequence), dtype=torch.bool))[0, -count - 1 : -1]
    drawn, _ = chained.code_head.draw(hidden, GREEDY, [None] * count, end_allowed=False)
    assert torch.equal(drawn, made.tokens[0])
    assert torch.equal(chained.duration_head(hidden, drawn).argmax(1) + 1, made.durations[0])


def test_a_seed_decides(chained):
    prompts = examples()
    first = generate_tokens(chained, prompts, replace(MANY, seed=1))
    assert torch.equal(generate_tokens(chained, prompts, replace(MANY, seed=1)).tokens, first.tokens)
    others = generate_tokens(chained, prompts, replace(MANY, seed=2))
    assert others.tokens.shape != first.tokens.shape or not torch.equal(others.tokens, first.tokens)


def test_limits_leave_whole_tokens_and_say_so(chained):
    prompts = examples()
    with torch.no_grad():
        chained.code_head.outer[0].bias[-1] -= 1e4  # never ends
        try:
            for settings in (GenerationConfig(max_tokens=3), GenerationConfig(max_frames=9), GenerationConfig()):
                made = generate_tokens(chained, prompts, settings)
                assert made.reached_limit.all()
                assert ((made.durations > 0).sum(1) == made.lengths).all()
                frames = made.durations.sum(1)
                if settings.max_tokens:
                    assert (made.lengths == 3).all()
                elif settings.max_frames:
                    assert ((frames >= 9) & (frames < 9 + SPACE.max_duration)).all()
                else:
                    assert ((frames - (25 + 3 * prompts.text_lengths)) >= 0).all()
            short = generate_tokens(chained, prompts, GenerationConfig(max_frames=9, max_duration=2))
            assert short.durations.max() == 2
        finally:
            chained.code_head.outer[0].bias[-1] += 1e4


def test_an_end_leaves_the_limit_unsaid(chained):
    with torch.no_grad():
        chained.code_head.outer[0].bias[-1] += 1e4
        made = generate_tokens(chained, examples(), GenerationConfig(min_tokens=2))
        none = generate_tokens(chained, examples(), GenerationConfig())
        chained.code_head.outer[0].bias[-1] -= 1e4
    assert (made.lengths == 2).all()
    assert not made.reached_limit.any()
    assert none.tokens.shape == (3, 0)


def test_repetition_aware_sampling_draws_again():
    codes, before = torch.tensor([3, 4]), [torch.tensor([3, 1]), torch.tensor([3, 2]), torch.tensor([9, 9])]
    assert repeats(codes, before, Sampling()) == []
    assert repeats(codes, before, Sampling(repetition_window=10, repetition_share=0.1)) == [0]
    assert repeats(codes, before, Sampling(repetition_window=10, repetition_share=0.3)) == []
    assert repeats(codes, before, Sampling(repetition_window=1)) == []
    stuck = make(seed=3)
    with torch.no_grad():
        for head in stuck.code_head.outer:
            head.weight.zero_()
            head.bias.copy_(torch.arange(len(head.bias)) == 0)
    prompts = alone(examples(), 0)
    settings = GenerationConfig(tokens=Sampling(top_k=1), min_tokens=30, max_tokens=30, max_frames=500)
    assert not generate_tokens(stuck, prompts, settings).tokens.any()
    aware = replace(settings, tokens=Sampling(top_k=1, repetition_window=10))
    assert len(generate_tokens(stuck, prompts, aware).tokens.unique()) > 5


def test_bad_prompts_are_refused(chained):
    prompts = examples()
    cases = {
        "a text has no letters": {"text_lengths": torch.tensor([6, 0, 4])},
        "text id 11 of a prompt": {"text": torch.full_like(prompts.text, LETTERS)},
        "code 60 of a prompt": {"codes": torch.full_like(prompts.codes, SPACE.size)},
        "duration 9 of a prompt": {"durations": torch.full_like(prompts.durations, 9)},
    }
    for message, changes in cases.items():
        with pytest.raises(ValueError, match=message):
            generate_tokens(chained, replace(prompts, **changes))
    small = make(replace(CONFIG, max_positions=14))
    with pytest.raises(ValueError, match="take 14 positions and leave no room"):
        generate_tokens(small, prompts)
    with pytest.raises(ValueError, match="3 seeds|2 seeds"):
        generate_tokens(chained, prompts, GenerationConfig(seed=(1, 2)))


def test_configs_are_checked_and_stored():
    for wrong, message in (
        ({"backbone": {"dim": 15}}, "does not split"),
        ({"backbone": {"dropout": 1.0}}, "dropout is 1"),
        ({"codes": "digits"}, "codes is 'digits'"),
        ({"head_dim": 0}, "head_dim 0"),
    ):
        with pytest.raises(ValueError, match=message):
            from_dict(TokenLMConfig, wrong)
    assert from_dict(TokenLMConfig, to_dict(CONFIG)) == CONFIG


def test_any_decoder_of_transformers_can_be_the_backbone():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    held = Qwen2Config(vocab_size=7, intermediate_size=16, bos_token_id=None, eos_token_id=None, **sizes)
    model = make(replace(CONFIG, backbone=BackboneConfig(dropout=0.0, transformers=held.to_diff_dict())))
    assert type(model.backbone).__name__ == "Qwen2Model"
    batch = examples()
    torch.testing.assert_close(model(batch).codes[1], model(alone(batch, 1)).codes[0], atol=1e-4, rtol=1e-4)
