"""The peer, `flexicodec` 0.1.2 (PyPI), with random weights and a generated SenseVoice folder.

Runs in the peer's own environment (`--peer-python`) and imports nothing from this package.
"""

import json
import shutil
import struct
import tempfile
from pathlib import Path

VOCABULARY = 25055
SENSEVOICE = """
encoder: SenseVoiceEncoderSmall
encoder_conf: {output_size: 512, attention_heads: 4, linear_units: 2048, num_blocks: 50, tp_blocks: 20,
  dropout_rate: 0.1, positional_dropout_rate: 0.1, attention_dropout_rate: 0.1, input_layer: pe,
  pos_enc_class: SinusoidalPositionEncoder,
  normalize_before: true, kernel_size: 11, sanm_shfit: 0, selfattention_layer_type: sanm}
model: SenseVoiceSmall
model_conf: {length_normalized_loss: true, sos: 1, eos: 2, ignore_id: -1}
tokenizer: CharTokenizer
tokenizer_conf: {token_list: TOKENS, unk_symbol: <unk>, split_with_space: true}
frontend: WavFrontend
frontend_conf: {fs: 16000, window: hamming, n_mels: 80, frame_length: 25, frame_shift: 10, lfr_m: 7, lfr_n: 6,
  cmvn_file: CMVN}
dataset: SenseVoiceCTCDataset
"""


def prepare():
    """Build the model by its own loader, from files without weights."""
    import torch
    from flexicodec.infer import prepare_model

    import flexicodec

    home = Path(flexicodec.__file__).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokens = ["<blank>", "<s>", "</s>", *(f"t{i}" for i in range(VOCABULARY - 4)), "<unk>"]
        (folder / "tokens.json").write_text(json.dumps(tokens))
        shutil.copy(home / "am.mvn", folder / "am.mvn")
        text = SENSEVOICE.replace("TOKENS", str(folder / "tokens.json")).replace("CMVN", str(folder / "am.mvn"))
        (folder / "config.yaml").write_text(text)
        torch.save({}, folder / "model.pt")  # and so is SenseVoice's
        header = json.dumps({}).encode()  # a safetensors file without tensors: its loader accepts this
        (folder / "none.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        return prepare_model(
            sensevoice_small_path=name,
            ckpt_path=str(folder / "none.safetensors"),
            config_path=str(home / "conf" / "model_config.yaml")
            if (home / "conf" / "model_config.yaml").exists()
            else str(home / "model_config.yaml"),
        )
