"""Tiny models of transformers and funasr with random weights, saved in folders like the real ones."""

import json

import torch
import transformers

from flexicodec.config import dump_yaml

RAW_AUDIO = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8, 8, 8),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 4, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "initializer_range": 0.5,
    "apply_spec_augment": False,
}
LETTERS = "<pad> <s> </s> <unk> | E T A O N I H S R D L U M W C F G Y P B V K ' X J Q Z".split()


def save_extractor(folder):
    """Write how raw audio is prepared: as for the large models, normalised clip by clip."""
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)


def save_hubert(folder, norm="layer"):
    """Save a HuBERT with a CTC head and its tokenizer; norm "layer" as the large models, "group" as the base ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.HubertConfig(
            **RAW_AUDIO,
            vocab_size=len(LETTERS),
            pad_token_id=0,
            feat_extract_norm=norm,
            do_stable_layer_norm=norm == "layer",
        )
        model = transformers.HubertForCTC(config)
        torch.nn.init.normal_(model.lm_head.weight, std=2.0)
    model.save_pretrained(folder)
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({letter: code for code, letter in enumerate(LETTERS)}))
    transformers.Wav2Vec2CTCTokenizer(vocabulary, do_lower_case=False).save_pretrained(folder)
    save_extractor(folder)
    return folder


def save_wavlm(folder, norm="group"):
    """Save a WavLM with an x-vector head; norm "group" as wavlm-base-plus-sv has it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.WavLMConfig(
            **RAW_AUDIO,
            feat_extract_norm=norm,
            do_stable_layer_norm=norm == "layer",
            tdnn_dim=(12, 12, 12),
            tdnn_kernel=(5, 3, 1),
            tdnn_dilation=(1, 2, 1),
            xvector_output_dim=10,
        )
        transformers.WavLMForXVector(config).save_pretrained(folder)
    save_extractor(folder)
    return folder


def save_whisper(folder):
    """Save a Whisper with a window of 2 s, with bytes for a vocabulary and the multilingual special tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    symbols = sorted(ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
    special += ["<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    times = [f"<|{0.02 * step:.2f}|>" for step in range(101)]
    names = [*symbols, *special, *times]
    codes = {name: code for code, name in enumerate(names)}
    tokenizer = transformers.WhisperTokenizer(
        vocab={name: codes[name] for name in [*symbols, "<|endoftext|>"]}, merges=[], pad_token="<|endoftext|>"
    )
    tokenizer.add_tokens([transformers.AddedToken(name, special=True) for name in special[1:]])
    tokenizer.add_tokens([transformers.AddedToken(name, special=False) for name in times])
    assert all(tokenizer.convert_tokens_to_ids(name) == code for name, code in codes.items())
    extractor = transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=2)
    config = transformers.WhisperConfig(
        vocab_size=len(names),
        num_mel_bins=20,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_source_positions=100,
        max_target_positions=40,
        pad_token_id=codes["<|endoftext|>"],
        bos_token_id=codes["<|endoftext|>"],
        eos_token_id=codes["<|endoftext|>"],
        decoder_start_token_id=codes["<|startoftranscript|>"],
        init_std=0.7,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        is_multilingual=True,
        lang_to_id={name: codes[name] for name in ("<|en|>", "<|de|>")},
        task_to_id={name: codes[f"<|{name}|>"] for name in ("translate", "transcribe")},
        no_timestamps_token_id=codes["<|notimestamps|>"],
        max_initial_timestamp_index=50,
        return_timestamps=False,
        begin_suppress_tokens=[codes["<|endoftext|>"]],
        prev_sot_token_id=codes["<|startofprev|>"],
        max_length=24,
        pad_token_id=codes["<|endoftext|>"],
        bos_token_id=codes["<|endoftext|>"],
        eos_token_id=codes["<|endoftext|>"],
        decoder_start_token_id=codes["<|startoftranscript|>"],
    )
    model.save_pretrained(folder)
    transformers.WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    return folder


def save_sensevoice(folder):
    """Save a SenseVoice in funasr's layout: config.yaml, model.pt, a SentencePiece model and normalising statistics."""
    import sentencepiece
    from funasr.models.sense_voice.model import SenseVoiceSmall

    from flexicodec.asr import train_pieces

    pieces = train_pieces(["the quick brown fox jumps over the lazy dog", "pack my box with five dozen jugs"] * 20, 40)
    (folder / "bpe.model").write_bytes(pieces)
    statistics = ["<Nnet>", "<Splice> 560 560", "[ 0 ]", "<AddShift> 560 560"]
    statistics += [f"<LearnRateCoef> 0 [ {' '.join(['-12.0'] * 560)} ]", "<Rescale> 560 560"]
    statistics += [f"<LearnRateCoef> 0 [ {' '.join(['0.3'] * 560)} ]", "</Nnet>"]
    (folder / "am.mvn").write_text("\n".join(statistics) + "\n")
    encoder = {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 24,
        "num_blocks": 2,
        "tp_blocks": 1,
        "dropout_rate": 0.1,
        "input_layer": "pe",
        "normalize_before": True,
        "kernel_size": 5,
        "sanm_shfit": 0,
    }
    config = {
        "model": "SenseVoiceSmall",
        "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
        "encoder": "SenseVoiceEncoderSmall",
        "encoder_conf": encoder,
        "frontend": "WavFrontend",
        "frontend_conf": {
            "fs": 16000,
            "window": "hamming",
            "n_mels": 80,
            "frame_length": 25,
            "frame_shift": 10,
            "lfr_m": 7,
            "lfr_n": 6,
        },
        "tokenizer": "SentencepiecesTokenizer",
        "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True},
    }
    (folder / "config.yaml").write_text(dump_yaml(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vocabulary = sentencepiece.SentencePieceProcessor(model_proto=pieces).get_piece_size()
        size = {"input_size": 560, "vocab_size": vocabulary}
        model = SenseVoiceSmall(encoder="SenseVoiceEncoderSmall", encoder_conf=encoder, **config["model_conf"], **size)
        torch.nn.init.normal_(model.ctc.ctc_lo.weight, std=2.0)
    torch.save(model.state_dict(), folder / "model.pt")
    return folder


def assert_fingerprint_of_weights(model):
    """The fingerprint of a metric's model changes with a weight, and comes back with it."""
    before = model.fingerprint
    assert model.fingerprint == before
    weight = list(model.module.parameters())[-1]
    with torch.no_grad():
        kept = weight.clone()
        weight.flatten()[0] += 1
        after = model.fingerprint
        weight.copy_(kept)
    assert after != before == model.fingerprint
