"""Tokens and codecs in the object store of Ray, whose arrays are read-only."""

import tempfile

import joblib
import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def ray():
    """One local node, without a dashboard."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Tensors then come as views of the store's memory, where they are not part of Tokens or a codec.
        patch.setenv("RAY_ENABLE_ZERO_COPY_TORCH_TENSORS", "1")
        # A short path: those of sockets have at most 107 bytes.
        with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
            ray.init(
                address="local",
                num_cpus=1,
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=100 * 2**20,
                _temp_dir=folder,
            )
            yield ray
            ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray
def test_tokens_and_codecs_in_the_object_store(ray, whole):
    audio = 0.1 * np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    tokens = whole.encode(audio, frame_rate=6.25)
    there = ray.get(ray.put({"tokens": tokens, "codec": whole, "audio": audio, "tensor": torch.from_numpy(audio)}))
    assert not there["audio"].flags.writeable
    assert there["tokens"] == tokens
    assert there["tokens"].info == tokens.info
    assert joblib.hash(there["tokens"]) == joblib.hash(tokens)
    codec = there["codec"]
    assert codec.fingerprint == whole.fingerprint
    assert joblib.hash(codec) == joblib.hash(whole)
    for given in (there["audio"], there["tensor"]):
        assert codec.encode(given, frame_rate=6.25) == whole.encode(given, frame_rate=6.25) == tokens
    assert torch.equal(codec.decode(there["tokens"]), whole.decode(tokens))
    # The store's memory is not that of the weights, which may be trained.
    with torch.no_grad():
        codec.semantic_quantizer.project_in.weight.mul_(1.01)
    assert codec.fingerprint != whole.fingerprint
    assert ray.get(ray.put(whole)).fingerprint == whole.fingerprint


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_task_encodes_with_a_codec_of_the_store(ray, whole):
    audio = 0.1 * np.random.default_rng(0).standard_normal(20_000).astype(np.float32)

    @ray.remote
    def there_and_back(codec, clip):
        tokens = codec.encode(clip)
        return tokens, codec.decode(tokens).numpy(), joblib.hash(codec)

    tokens, decoded, name = ray.get(there_and_back.remote(ray.put(whole), ray.put(audio)))
    assert tokens == whole.encode(audio)
    assert np.array_equal(decoded, whole.decode(tokens).numpy())
    assert name == joblib.hash(whole)
