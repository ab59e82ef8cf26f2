"""Small self-supervised encoders, one of every kind: their configs, transformers' models of them, and folders."""

from dataclasses import asdict, replace

import torch
import transformers

from flexicodec.encoders.base import SSLConfig, SSLSettings
from flexicodec.encoders.ssl import CLASSES

TINY = SSLSettings(
    hidden_size=24,
    num_attention_heads=4,
    intermediate_size=40,
    conv_dim=(12,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    num_buckets=32,
    max_bucket_distance=40,
)
PLAIN = replace(TINY, num_buckets=320, max_bucket_distance=800)  # for those who know no buckets
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}  # habits of the large models
DEPTH = 3
KINDS = [
    SSLConfig("hubert", 2, False, PLAIN),
    SSLConfig("hubert", 2, True, replace(PLAIN, **LARGE)),
    SSLConfig("hubert", 1, True, replace(PLAIN, feat_extract_norm="layer")),
    SSLConfig("hubert", 3, False, replace(PLAIN, do_stable_layer_norm=True)),
    SSLConfig("hubert", 2, False, replace(PLAIN, conv_pos_batch_norm=True, feat_proj_layer_norm=False)),
    SSLConfig("hubert", 0, True, PLAIN),
    SSLConfig("hubert", 0, False, replace(PLAIN, **LARGE)),
    SSLConfig("wavlm", 3, False, TINY),
    SSLConfig("wavlm", 2, True, replace(TINY, **LARGE)),
    SSLConfig("wavlm", 0, False, TINY),
    SSLConfig("wav2vec2", 2, True, PLAIN),
    SSLConfig("wav2vec2", 3, True, replace(PLAIN, **LARGE)),
]


def name(config):
    return f"{config.model_type}-{config.layer}-{config.settings.feat_extract_norm}" + (
        "-stable" * config.settings.do_stable_layer_norm + "-batch" * config.settings.conv_pos_batch_norm
    )


@torch.no_grad()
def model_of(config, head="Model"):
    """Transformers' model with random weights, norms and biases included: new ones have norms of 1 and no biases."""
    kind = CLASSES[config.model_type]
    settings = getattr(transformers, f"{kind}Config")(**asdict(config.settings), num_hidden_layers=DEPTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, kind + head)(settings).eval()
        for key, weight in [*model.named_parameters(), *model.named_buffers()]:
            if weight.ndim == 1 and weight.is_floating_point():
                weight.copy_(
                    0.5 + torch.rand_like(weight) if "var" in key or "norm" in key else 0.3 * torch.randn_like(weight)
                )
            elif "original0" not in key and weight.is_floating_point():
                weight.mul_(3.0)
    return model


def save_model(folder, config, head="Model"):
    """Save a model in transformers' layout, as its own tools do; the folder, and the bare model."""
    model = model_of(config, head)
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=config.normalise).save_pretrained(folder)
    return folder, getattr(model, config.model_type, model)
