"""Codebooks that are running means: started by k-means, following what they code, whatever the processes."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexicodec.quantize import EuclideanRVQ, RVQConfig
from flexicodec.training.codebook_means import CodebookMeans, fit_codebooks
from flexicodec.training.config import CodebookConfig, DropoutConfig, OptimConfig
from flexicodec.training.trainer import CodecTrainer, train
from tests.training.recipes import MODEL, make_recogniser, recipe
from tests.training.two_processes import Together

ALONE = SimpleNamespace(num_processes=1)
CONFIG = CodebookConfig(start_step=2, kmeans_tokens=400, kmeans_rounds=4)
DIM = 6


@pytest.fixture
def quantizer():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        quantizer = RVQConfig(num_codebooks=2, codebook_size=8, codebook_dim=None).build(DIM)
    assert isinstance(quantizer, EuclideanRVQ)
    return quantizer.train()


def latents(seed, items=4, tokens=50):
    """Eight clusters, some way from the origin."""
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.randn(8, DIM, generator=torch.Generator().manual_seed(99))
    chosen = centres[torch.randint(8, (items, tokens), generator=generator)]
    return (chosen + 0.3 * torch.randn(items, tokens, DIM, generator=generator)).mT


def see(means, x, counts=None, lengths=None, first=0):
    items = len(x)
    means.items = torch.arange(first, first + items)
    counts = torch.full((items,), 2) if counts is None else counts
    lengths = torch.full((items,), x.shape[2]) if lengths is None else lengths
    return means.quantizer(x, lengths, counts)


def test_kmeans_starts_the_rows_at_the_clusters_of_recent_features(quantizer):
    means = CodebookMeans(quantizer, CONFIG, seed=0)
    fresh = quantizer.codebooks.clone()
    for step in range(2):
        assert torch.equal(quantizer.codebooks, fresh)
        see(means, latents(step), first=4 * step)
        assert means.update(step, ALONE) == 0
    x = latents(5)
    with torch.no_grad():
        residual = (quantizer(x).latents - x).square().mean()
    assert residual < 0.3 * x.var()
    assert not len(means.kept)


def test_fitting_on_more_tokens_lowers_the_error_of_others(quantizer):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.cat([latents(seed) for seed in range(20)]).mT.flatten(0, 1)
    x = latents(50)

    def error():
        with torch.no_grad():
            return float((quantizer(x).latents - x).square().mean())

    fit_codebooks(quantizer, tokens[:40], 4, generator, from_scratch=True)
    errors = [error()]
    use = fit_codebooks(quantizer, tokens, 4, generator)
    errors.append(error())
    assert errors[1] < 0.9 * errors[0]
    assert use.shape == (2, 8)
    assert (use >= 0.5).all()
    assert use.sum(dim=1).tolist() == pytest.approx([len(tokens)] * 2, rel=0.01)
    # What is fitted stays so.
    rows = quantizer.codebooks.clone()
    fit_codebooks(quantizer, tokens, 20, generator)
    settled = quantizer.codebooks.clone()
    fit_codebooks(quantizer, tokens, 1, generator)
    assert (quantizer.codebooks - settled).norm() < 0.1 * (rows - settled).norm() + 1e-4


def test_rows_are_running_means_of_the_residuals_of_active_stages(quantizer):
    means = CodebookMeans(quantizer, replace(CONFIG, start_step=1, decay=0.5, dead_use=0.0), seed=0)
    see(means, latents(0))
    means.update(0, ALONE)
    before = quantizer.codebooks.clone()
    use = means.use.clone()
    x = latents(1)
    counts = torch.tensor([2, 1, 0, 2])
    with torch.no_grad():
        codes = quantizer(x).codes
    see(means, x, counts, torch.tensor([50, 50, 50, 20]))
    means.update(1, ALONE)

    residual = x.mT.clone()
    valid = torch.ones(4, 50, dtype=torch.bool)
    valid[3, 20:] = False
    for stage in range(2):
        on = valid & (counts > stage)[:, None]
        column = codes[:, stage]
        for row in range(8):
            coded = residual[on & (column == row)]
            added = 0.5 * 8 / on.sum() * len(coded)
            expected = before[stage, row]
            if len(coded):
                kept = 0.5 * use[stage, row]
                expected = (kept * expected + added * coded.mean(dim=0)) / (kept + added)
            torch.testing.assert_close(quantizer.codebooks[stage, row], expected, rtol=1e-4, atol=1e-4)
        residual = residual - before[stage][column]


def test_unused_rows_split_the_busiest_a_few_at_a_time(quantizer):
    means = CodebookMeans(quantizer, replace(CONFIG, start_step=1, moves_per_step=2), seed=0)
    see(means, latents(0))
    means.update(0, ALONE)
    quantizer.codebooks[0, 3:6] = 1000.0
    means.use[0, 3:6] = 0.001
    means.use[0, [1, 6]] = 20.0
    see(means, latents(1))
    assert means.update(1, ALONE) == 2
    rows = quantizer.codebooks[0]
    far = rows.abs().amax(dim=1) > 500
    assert far.tolist() == [False] * 5 + [True] + [False] * 2
    # Each has a twin beside it, and they share its use.
    nearest = torch.cdist(rows[3:5], rows[[1, 6]]).min(dim=0)
    assert (nearest.values < 0.1 * rows[[1, 6]].norm(dim=1)).all()
    assert sorted(nearest.indices.tolist()) == [0, 1]
    use = means.use[0]
    assert torch.equal(use[[1, 6]], use[3:5][nearest.indices])
    assert (use[[1, 6]] > 1).all()
    # What comes next tells them apart.
    for step in range(2, 20):
        see(means, latents(step))
        means.update(step, ALONE)
    assert torch.cdist(rows[3:5], rows[[1, 6]]).min() > 0.01


def test_rows_follow_more_slowly_as_the_learning_rate_falls(quantizer):
    moved = {}
    for pace in (1.0, 0.1, 0.0):
        rows = RVQConfig(2, 8, None).build(DIM)
        rows.load_state_dict(quantizer.state_dict())
        means = CodebookMeans(rows, replace(CONFIG, start_step=0, decay=0.9, dead_use=0.0), seed=0)
        see(means, latents(0))
        means.update(0, ALONE, pace=pace)
        moved[pace] = (rows.codebooks - quantizer.codebooks)[0].norm()
    assert moved[0.0] == 0
    assert 0 < moved[0.1] < 0.5 * moved[1.0]


def test_trained_rows_are_followed_from_the_first_step(quantizer):
    means = CodebookMeans(quantizer, replace(CONFIG, start_step=0, decay=0.9, dead_use=0.0), seed=0)
    before = quantizer.codebooks.clone()
    see(means, latents(0))
    assert means.update(0, ALONE) == 0
    moved = (quantizer.codebooks - before).abs().sum(dim=2) > 0
    assert 0 < moved[0].sum() < 8  # those that coded something, towards it
    assert not len(means.kept)


def test_skipped_steps_and_evaluation_teach_nothing(quantizer):
    means = CodebookMeans(quantizer, replace(CONFIG, start_step=1), seed=0)
    see(means, latents(0))
    means.update(0, ALONE)
    before = quantizer.codebooks.clone()
    see(means, latents(1))
    means.update(1, ALONE, finite=False)
    with torch.no_grad():
        see(means, latents(2))
    assert torch.equal(quantizer.codebooks, before)
    assert not means._coded


def test_two_processes_learn_what_one_does(quantizer):
    state = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    x = [latents(seed, items=5, tokens=40) for seed in range(4)]
    counts = torch.tensor([2, 1, 2, 2, 0])
    lengths = torch.tensor([40, 30, 20, 40, 10])
    one = CodebookMeans(quantizer, CONFIG, seed=3)
    for step, batch in enumerate(x):
        see(one, batch, counts, lengths)
        one.update(step, ALONE)
    expected = quantizer.codebooks.clone()

    together = Together()
    learned = [None, None]

    def process(rank):
        mine = RVQConfig(2, 8, None).build(DIM).train()
        mine.load_state_dict(state)
        means = CodebookMeans(mine, CONFIG, seed=3)
        rows = slice(0, 2) if rank == 0 else slice(2, 5)
        for step, batch in enumerate(x):
            see(means, batch[rows], counts[rows], lengths[rows], first=rows.start)
            means.update(step, together.of(rank))
        learned[rank] = mine.codebooks

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for codebooks in learned:
        torch.testing.assert_close(codebooks, expected, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------------ in the trainer


@pytest.fixture
def config(tmp_path, speech_manifest):
    model = replace(
        MODEL,
        acoustic_quantizer=RVQConfig(3, 16, None),
        acoustic=replace(MODEL.acoustic, latent_dim=12),
        merging=replace(MODEL.merging, semantic_aggregator=None, acoustic_aggregator=None),
        bottleneck=None,
    )
    made = recipe(speech_manifest, tmp_path / "run", make_recogniser(tmp_path / "asr"))
    return replace(
        made,
        model=model,
        init_from=(replace(made.init_from[0], parts=("semantic_encoder",)),),
        codebooks=CodebookConfig(start_step=3, kmeans_tokens=100),
        dropout=DropoutConfig(0.2, 0.2, 0.3),
        losses=replace(made.losses, repa=0.0, mel_energy=1.0),
        adversarial=None,
        data=replace(made.data, crop_seconds=0.48),
        optim=replace(made.optim, reseed_every=None),
        steps=6,
        save_every=2,
    )


def test_a_run_starts_its_codebooks_and_resumes_exactly(config, tmp_path):
    whole = CodecTrainer(config)
    whole.run()
    assert float(whole.codec.acoustic_quantizer.codebooks.abs().amax()) > 0
    for stop in (2, 4):
        output = str(tmp_path / f"stopped-{stop}")
        CodecTrainer(replace(config, output=output, steps=stop)).run()
        resumed = CodecTrainer(replace(config, output=output))
        # the shorter run's schedule differs, so only the state it left is compared
        assert resumed.step == stop
        assert torch.equal(resumed.state.means.use, torch.ones(3, 16)) == (stop < 3)
        assert len(resumed.state.means.kept) == 0 or stop < 3


def test_a_run_takes_cached_features_for_computed_ones(config, tmp_path):
    # Crops are as long as the longest clip, so that the encoder hears the same without the cache.
    data = replace(config.data, crop_seconds=1.44, feature_cache=str(tmp_path / "features.cache"))
    cached = replace(config, data=data)
    trainer = CodecTrainer(cached)
    batch = next(trainer.batches(0))
    frames = trainer.codec.frame_counts(batch.lengths)
    computed = trainer.codec.encode_semantic(batch.audio, batch.lengths, frames)
    torch.testing.assert_close(batch.features, computed, rtol=2e-3, atol=2e-3)
    trainer.run()
    again = CodecTrainer(replace(cached, output=str(tmp_path / "again")))
    again.run()  # from the file that is there now
    for key, value in trainer.codec.state_dict().items():
        assert torch.equal(again.codec.state_dict()[key], value), key


def test_a_cache_of_another_encoder_or_for_changed_audio_is_refused(config, tmp_path):
    cached = replace(config, data=replace(config.data, feature_cache=str(tmp_path / "features.cache")))
    CodecTrainer(replace(cached, steps=1)).run()
    other = make_recogniser(tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: 1.1 * value for name, value in weights.items()}, other / "model.safetensors")
    other = replace(cached, output=str(tmp_path / "b"), init_from=(replace(cached.init_from[0], source=str(other)),))
    with pytest.raises(ValueError, match="was made with encoder"):
        CodecTrainer(other).run()
    noisy = replace(cached.data.augmentation, codec_share=0.5)
    with pytest.raises(ValueError, match="features of clean clips"):
        CodecTrainer(replace(cached, output=str(tmp_path / "n"), data=replace(cached.data, augmentation=noisy))).run()


def test_a_codec_with_running_means_is_saved_and_loaded(config):
    import flexicodec

    folder = train(replace(config, steps=4))
    codec = flexicodec.load(folder)
    audio = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0)) * 0.1
    tokens = codec.encode(audio, margins=True)
    assert tokens.acoustic.shape[1] == 3
    assert codec.decode(tokens).shape == audio.shape
    assert tokens.margins is not None


def test_wrong_settings_are_errors():
    with pytest.raises(ValueError, match="decay"):
        CodebookConfig(decay=1.0)
    with pytest.raises(ValueError, match="start_step is -1"):
        CodebookConfig(start_step=-1)
    with pytest.raises(ValueError, match="unquantized_share"):
        DropoutConfig(0.5, 0.3, 0.3)
    assert OptimConfig().reseed_every is None
