"""Generation of tokens and durations: batches, caches, limits, seeds and bad input, with a tiny random model."""

from dataclasses import replace

import pytest
import torch

from flexicodec.models.tts.ar import ARBatch, AutoregressiveTTS
from flexicodec.models.tts.causal_stack import FIRST_CAPACITY, CausalStack, RelativeAttention
from flexicodec.models.tts.config import ARConfig, CausalStackConfig
from flexicodec.models.tts.generation import GenerationConfig, generate, generate_steps
from flexicodec.models.tts.sampling import GREEDY, Sampling, draw

TEXT_IDS, CODES = 20, 40
STACK = CausalStackConfig(2, 16, 2, 24, "silu")
CONFIG = ARConfig(
    text_encoder=STACK,
    lm=replace(STACK, dim=24, num_heads=3, activation="relu"),
    text_vocabulary=TEXT_IDS,
    codebook_size=CODES,
    max_positions=400,
)


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoregressiveTTS(CONFIG).eval()
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return model


def prompts(texts, lengths, thresholds=0.91, seed=0):
    """Random prompts: texts and reference tokens of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(TEXT_IDS, (len(texts), max(texts)), generator=generator)
    tokens = torch.randint(CODES, (len(texts), max(lengths)), generator=generator)
    durations = torch.randint(1, 9, tokens.shape, generator=generator)
    return ARBatch(text, torch.tensor(texts), tokens, torch.tensor(lengths), durations, thresholds)


def item(batch, row):
    """One item alone, without its padding."""
    text, tokens = int(batch.text_lengths[row]), int(batch.token_lengths[row])
    thresholds = batch.thresholds[row] if isinstance(batch.thresholds, list) else batch.thresholds
    return ARBatch(
        batch.text[row : row + 1, :text],
        batch.text_lengths[row : row + 1],
        batch.tokens[row : row + 1, :tokens],
        batch.token_lengths[row : row + 1],
        batch.durations[row : row + 1, :tokens],
        thresholds,
    )


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(0.8, None, 0.9)])
def test_a_batch_is_each_item_alone(model, sampling):
    batch = prompts([7, 3, 5], [0, 9, 4], [0.91, 0.86, None])
    config = GenerationConfig(sampling, Sampling(top_k=3), max_tokens=25, seed=[5, 6, 7])
    together = generate(model, batch, config)
    for row, seed in enumerate((5, 6, 7)):
        alone = generate(model, item(batch, row), replace(config, seed=seed))
        count = int(alone.lengths)
        assert together.lengths[row] == count
        assert torch.equal(together.tokens[row, :count], alone.tokens[0])
        assert torch.equal(together.durations[row, :count], alone.durations[0])
        assert together.reached_limit[row] == alone.reached_limit[0]
        assert not together.tokens[row, count:].any()
        assert not together.durations[row, count:].any()


@torch.no_grad()
def test_steps_with_a_cache_are_the_whole_sequence():
    stack = CausalStack(STACK).eval()
    x = torch.randn(2, FIRST_CAPACITY + 9, STACK.dim)  # the cache grows on the way
    whole = stack(x)
    caches = stack.new_caches()
    parts = [stack(part, caches=caches) for part in x.split([5, 1, 1, FIRST_CAPACITY - 8, 1, 1, 8], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_on_the_left_changes_nothing():
    stack = CausalStack(STACK).eval()
    x = torch.randn(1, 6, STACK.dim)
    padded = torch.cat([torch.randn(1, 4, STACK.dim), x], dim=1)
    torch.testing.assert_close(stack(padded, torch.tensor([4]))[:, 4:], stack(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_nothing_looks_ahead():
    stack = CausalStack(STACK).eval()
    x = torch.randn(1, 8, STACK.dim)
    changed = x.clone()
    changed[:, 5] += 1.0
    assert torch.equal(stack(x)[:, :5], stack(changed)[:, :5])


def test_positions_are_projected_once(model, monkeypatch):
    counts = []
    project = RelativeAttention._project
    monkeypatch.setattr(
        RelativeAttention, "_project", lambda self, *arguments: counts.append(1) or project(self, *arguments)
    )
    fresh = AutoregressiveTTS(CONFIG).eval()
    fresh.load_state_dict(model.state_dict())
    for _ in range(2):
        generate(fresh, prompts([4], [5]), GenerationConfig(max_tokens=12, min_tokens=12))
    assert len(counts) == CONFIG.text_encoder.num_layers + CONFIG.lm.num_layers


def test_changed_weights_are_projected_again(model):
    attention = RelativeAttention(16, 2)
    with torch.no_grad():
        before = attention.projected_positions(4).clone()
        attention.position_proj.weight.mul_(2)
        torch.testing.assert_close(attention.projected_positions(4), 2 * before)


def test_training_and_generation_project_alike():
    attention = RelativeAttention(16, 2)
    with torch.no_grad():
        kept = attention.projected_positions(4)
    torch.testing.assert_close(attention.projected_positions(4), kept)


def test_every_token_has_a_duration_even_at_the_limit(model):
    out = generate(model, prompts([4, 6], [3, 0]), GenerationConfig(max_tokens=9, min_tokens=9))
    assert out.lengths.tolist() == [9, 9]
    assert out.reached_limit.all()
    assert ((out.durations >= 1) & (out.durations <= 8)).all()
    shorter = generate(model, prompts([4], [3]), GenerationConfig(max_tokens=9, min_tokens=9, max_duration=2))
    assert set(shorter.durations[0].tolist()) <= {1, 2}


def test_upstreams_ways(model):
    config = GenerationConfig(max_tokens=9, min_tokens=9, compatible=True)
    out = generate(model, prompts([4], [3]), config)
    assert out.lengths.tolist() == [9]
    assert out.durations[0, -1] == 0
    assert out.reached_limit.all()


def test_the_limit_of_frames(model):
    config = GenerationConfig(max_tokens=40, min_tokens=40, max_frames=20)
    out = generate(model, prompts([4], [3]), config)
    total = out.durations[0].cumsum(0)
    assert out.reached_limit.all()
    assert total[-1] >= 20
    assert total[-2] < 20


def test_the_limit_follows_the_text(model):
    config = GenerationConfig(min_tokens=10_000)
    out = generate(model, prompts([1, 2], [0, 0]), config)
    assert out.lengths.tolist() == [20, 40]
    assert out.reached_limit.all()


@torch.no_grad()
def test_an_end_that_is_not_allowed_yet_does_not_stop_anything(model):
    eager = AutoregressiveTTS(CONFIG).eval()
    eager.load_state_dict(model.state_dict())
    eager.token_head.bias[CONFIG.end] = 1e4
    assert generate(eager, prompts([4], [3]), GenerationConfig(GREEDY)).lengths.tolist() == [0]
    out = generate(eager, prompts([4], [3]), GenerationConfig(GREEDY, min_tokens=3))
    assert out.lengths.tolist() == [3]
    assert not out.reached_limit.any()
    assert (out.durations > 0).all()


def test_a_seed_gives_the_same_tokens_and_touches_no_other(model):
    state = torch.get_rng_state()
    batch, config = prompts([5], [4]), GenerationConfig(max_tokens=20, min_tokens=20, seed=3)
    out = generate(model, batch, config)
    assert torch.equal(out.tokens, generate(model, batch, config).tokens)
    assert not torch.equal(out.tokens, generate(model, batch, replace(config, seed=4)).tokens)
    assert torch.equal(state, torch.get_rng_state())


def test_tokens_come_step_by_step(model):
    batch, config = prompts([5], [4]), GenerationConfig(max_tokens=8, min_tokens=8)
    steps = iter(generate_steps(model, batch, config))
    first = next(steps)
    assert first.duration_logits is None
    assert first.tokens.tolist() == generate(model, batch, config).tokens[:, 0].tolist()
    assert next(steps).durations.tolist() == generate(model, batch, config).durations[:, 0].tolist()


def test_rate_text_prompt_and_its_durations_matter(model):
    batch = prompts([5], [4])
    config = GenerationConfig(max_tokens=15, min_tokens=15)
    others = [
        replace(batch, thresholds=0.86),
        replace(batch, thresholds=None),
        replace(batch, text=(batch.text + 1) % TEXT_IDS),
        replace(batch, tokens=(batch.tokens + 1) % CODES),
        replace(batch, durations=batch.durations % 8 + 1),
    ]
    first = next(generate_steps(model, batch, config)).token_logits
    for other in others:
        assert not torch.allclose(next(generate_steps(model, other, config)).token_logits, first)


def test_half_precision(model):
    half = AutoregressiveTTS(CONFIG).eval()
    half.load_state_dict(model.state_dict())
    half.to(torch.bfloat16)
    batch, config = prompts([5, 3], [4, 6]), GenerationConfig(max_tokens=10, min_tokens=10)
    first = next(generate_steps(model, batch, config)).token_logits
    torch.testing.assert_close(next(generate_steps(half, batch, config)).token_logits, first, atol=0.3, rtol=0.1)
    assert generate(half, batch, config).lengths.tolist() == [10, 10]


def test_training_learns_by_heart():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoregressiveTTS(CONFIG)
    batch = prompts([5, 3], [6, 4])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.eval()  # no dropout
    first = model(batch)
    for _ in range(40):
        optimizer.zero_grad()
        losses = model(batch)
        losses.total.backward()
        optimizer.step()
    assert losses.token < 0.3 * first.token
    assert losses.duration < 0.5 * first.duration
    assert losses.accuracy > 0.9
    text_only = replace(batch, token_lengths=torch.zeros(2, dtype=torch.long))
    out = generate(model, text_only, GenerationConfig(GREEDY))
    for row, count in enumerate(batch.token_lengths.tolist()):
        assert out.tokens[row, :count].tolist() == batch.tokens[row, :count].tolist()


def test_losses_do_not_depend_on_padding(model):
    batch = prompts([5, 3], [6, 4])
    wider = replace(
        batch,
        text=torch.nn.functional.pad(batch.text, (0, 3)),
        tokens=torch.nn.functional.pad(batch.tokens, (0, 2)),
        durations=torch.nn.functional.pad(batch.durations, (0, 2)),
    )
    torch.testing.assert_close(model(wider).total, model(batch).total)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_lengths": torch.tensor([0])}, "a text has no ids"),
        ({"text": torch.full((1, 5), TEXT_IDS)}, "text id 20 of a prompt is out of range; this model has 0 to 19"),
        ({"tokens": torch.full((1, 4), CODES)}, "token 40 of a prompt is out of range"),
        ({"durations": torch.full((1, 4), 9)}, "duration 9 of a prompt is out of range; this model has 1 to 8"),
        ({"durations": torch.zeros(1, 4, dtype=torch.long)}, "duration 0 of a prompt"),
        ({"thresholds": 0.9}, r"threshold 0.9 is none of those this model was trained with \(0.86, 0.91\)"),
        ({"thresholds": [0.86, 0.91]}, "2 thresholds for 1 items"),
        (
            {"text": torch.zeros(1, 500, dtype=torch.long), "text_lengths": torch.tensor([500])},
            "take 507 positions and leave no room for tokens; this model has 400",
        ),
    ],
)
def test_prompts_the_model_does_not_have(model, change, message):
    with pytest.raises(ValueError, match=message):
        generate(model, replace(prompts([5], [4]), **change))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Sampling(temperature=0), "temperature is 0"),
        (lambda: Sampling(top_k=0), "top_k is 0"),
        (lambda: Sampling(top_p=1.5), "top_p is 1.5"),
        (lambda: GenerationConfig(min_tokens=-1), "min_tokens is -1"),
        (lambda: GenerationConfig(max_tokens=0), "max_tokens is 0"),
        (lambda: GenerationConfig(min_tokens=5, max_tokens=4), "min_tokens 5 is above max_tokens 4"),
        (lambda: ARConfig(max_duration=10), "max_duration 10 has no class of its own"),
        (lambda: CausalStackConfig(1, 10, 3, 8, "relu"), "split into 3 heads"),
        (lambda: CausalStackConfig(1, 8, 2, 8, "gelu"), "activation is 'gelu'"),
    ],
)
def test_settings_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_seeds_are_one_for_each(model):
    with pytest.raises(ValueError, match="2 seeds for 1 items"):
        generate(model, prompts([5], [4]), GenerationConfig(seed=[1, 2]))


def test_what_is_drawn():
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0]]).repeat(300, 1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(300)]
    assert set(draw(logits, Sampling(top_k=None), generators).tolist()) == {0, 1, 2, 3}
    assert set(draw(logits, Sampling(top_k=2), generators).tolist()) == {1, 2}
    assert set(draw(logits, Sampling(top_k=None, top_p=0.6), generators).tolist()) == {1}
    assert set(draw(logits, GREEDY, generators).tolist()) == {1}
    cold = draw(logits, Sampling(0.5), generators)
    warm = draw(logits, Sampling(2.0), generators)
    assert (cold == 1).sum() > (warm == 1).sum() + 50
