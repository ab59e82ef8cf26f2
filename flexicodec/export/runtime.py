"""Exported codecs: onnxruntime runs their graphs, and this package chooses durations and makes `Tokens`.

They are codecs of the same fingerprint as their models. Streams and margins need the networks and are refused.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from flexicodec.config import from_dict
from flexicodec.encoders.base import SanmConfig
from flexicodec.encoders.fbank import KaldiFbank
from flexicodec.export.graphs import NO_CODE
from flexicodec.export.onnx import FRONT_END_NAME, LAYOUT, MANIFEST_NAME
from flexicodec.merging.durations import LONGEST_EXPORTED
from flexicodec.models.codec import Codec, EncodeOptions
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.flexicodec.network import Features, QuantizedTokens, pad_and_cat
from flexicodec.models.nanocodec.config import NanoCodecConfig
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.nn.masking import fit_lengths
from flexicodec.quantize import GroupedFSQ, GroupedFSQConfig, Quantized
from flexicodec.tokens import Tokens
from flexicodec.weights import UnloadedModule

# Options of `encode` that graphs do not have.
REFUSALS = {
    "margins": "graphs give no margins; the model that was exported does (flexicodec.load)",
    "precision": "precision is {!r}, but graphs compute in the one they were exported in",
    "compatible": "graphs pad each clip at its own end; compatible=True needs the model that was exported",
}


def load_exported(folder: str | Path, *, threads: int | None = None) -> Codec:
    """Load a folder that `onnx.export` wrote.

    Args:
        folder: With `export.json`.
        threads: Of onnxruntime; None for all cores.

    Returns:
        A codec with the `encode`, `features`, `tokenize` and `decode` of the exported model.
    """
    folder = Path(folder)
    if not (folder / MANIFEST_NAME).is_file():
        raise ValueError(
            f"{folder} has no {MANIFEST_NAME}; expected a folder that `flexicodec export` wrote to the end"
        )
    try:
        held = json.loads((folder / MANIFEST_NAME).read_text())
    except ValueError as error:
        raise ValueError(f"{folder / MANIFEST_NAME} is not JSON ({error}); was the copy interrupted?") from error
    if held.get("layout") != LAYOUT:
        raise ValueError(f"{folder} has layout {held.get('layout')!r}, known is {LAYOUT}; export the model again")
    graphs = Graphs(folder, held["graphs"], threads)
    codec: Codec
    if held["model_type"] == FlexiCodec.model_type:
        codec = ExportedFlexiCodec(from_dict(FlexiCodecConfig, held["config"]), graphs, held["name"])
    else:
        codec = ExportedNanoCodec(from_dict(NanoCodecConfig, held["config"]), graphs, held["name"])
    codec.set_fingerprint(held["fingerprint"])
    return codec.eval()


class Graphs:
    """The graphs of a folder, each loaded when it is first run.

    Args:
        folder: Of the export.
        described: The entry `graphs` of `export.json`.
        threads: Of onnxruntime; None for all cores.
    """

    def __init__(self, folder: Path, described: dict[str, Any], threads: int | None) -> None:
        import onnxruntime

        self.folder = folder
        self._described = described
        self._threads = threads
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads or 0
        self._sessions: dict[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Sessions stay behind: a copy, or another process, loads the graphs of the folder again.
        return Graphs, (self.folder.absolute(), self._described, self._threads)

    def run(self, name: str, *inputs: Tensor) -> list[Tensor]:
        """Run a graph on inputs in its order.

        Raises:
            ValueError: Its file is missing or damaged, or it does not take the inputs.
        """
        import onnxruntime

        described = self._described[name]
        path = self.folder / described["file"]
        given = {}
        for spec, tensor in zip(described["inputs"], inputs, strict=True):
            given[spec["name"]] = tensor.contiguous().numpy()
        try:
            if name not in self._sessions:
                self._sessions[name] = onnxruntime.InferenceSession(path, self._options, ["CPUExecutionProvider"])
            outputs = self._sessions[name].run(None, given)
        except Exception as error:  # onnxruntime's have no common class
            raise ValueError(
                f"{path} cannot be run ({type(error).__name__}: {error}); export the model again?"
            ) from error
        return [torch.from_numpy(output) for output in outputs]


# --------------------------------------------------------------------------------------------------------- submodules


class OnnxModulePlaceholder(UnloadedModule):
    """Placeholder of a submodule that is in the graphs, with those of its attributes that are still read."""

    def __init__(self, name: str, **attributes: Any) -> None:
        super().__init__(name, "graphs")
        for key, value in attributes.items():
            setattr(self, key, value)

    def _refuse(self) -> Any:
        raise ValueError(
            f"this codec runs exported graphs, in which its {self._name} cannot be called by itself; flexicodec.load "
            "opens the model that was exported"
        )


class OnnxSemanticEncoder(nn.Module):
    """`SemanticEncoder` in ONNX: SAN-M's filterbanks in PyTorch, then the graph."""

    def __init__(self, encoder: Any, graphs: Graphs) -> None:
        super().__init__()
        self.graphs = graphs
        self.config = encoder.config
        self.dim = encoder.dim
        self.frame_rate = encoder.frame_rate
        self.front_end: KaldiFbank | None = None
        self.num_frames: Any = getattr(encoder, "num_frames", None)  # of encoders of audio
        if isinstance(encoder.config, SanmConfig):
            held = load_file(graphs.folder / FRONT_END_NAME)
            self.front_end = KaldiFbank(encoder.config.front_end, torch.stack([held["shift"], held["scale"]]))

    def forward(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, " batch"]]:
        """Return features at the encoder's own frame rate, and the valid frames of each item."""
        if self.front_end is not None:
            inputs, counts = self.front_end(audio, lengths)
            return self.graphs.run("semantic_encoder", inputs, counts)[0], counts
        return self.graphs.run("semantic_encoder", audio, lengths)[0], self.num_frames(lengths)


class OnnxConvEncoder(nn.Module):
    """A convolutional encoder in ONNX, with the one method of `ConvStack` that inference calls."""

    def __init__(self, name: str, min_frames: int, graphs: Graphs) -> None:
        super().__init__()
        self.name = name
        self.min_frames = min_frames
        self.graphs = graphs

    def chunked(
        self, x: Float[Tensor, "batch 1 samples"], lengths: Int[Tensor, " batch"], pad_at_item_ends: bool = True
    ) -> Float[Tensor, "batch dim frames"]:
        """Encode whole clips."""
        _check("compatible", not pad_at_item_ends, False)
        return self.graphs.run(self.name, x[:, 0], lengths)[0]


class OnnxGroupedFSQ(GroupedFSQ):
    """NanoCodec's quantizer, which has no weights, with codes from its graph."""

    def __init__(self, config: GroupedFSQConfig, graphs: Graphs) -> None:
        super().__init__(config)
        self.graphs = graphs

    def forward(
        self,
        latents: Float[Tensor, "batch dim tokens"],
        lengths: Int[Tensor, " batch"] | None = None,
        num_codebooks: int | Int[Tensor, " batch"] | None = None,
    ) -> Quantized:
        """Quantize with all codebooks."""
        assert lengths is not None
        assert num_codebooks is None
        (codes,) = self.graphs.run("quantizer", latents, lengths)
        return Quantized(latents, codes, {}, latents)


# ------------------------------------------------------------------------------------------------------------- codecs


class ExportedFlexiCodec(FlexiCodec):
    """A FlexiCodec whose networks are graphs. Clips are always computed whole: `windows` has no effect."""

    fixed_options: ClassVar[Mapping[str, Any]] = {**FlexiCodec.fixed_options, "margins": False, "precision": "float32"}
    device = torch.device("cpu")

    def __init__(self, config: FlexiCodecConfig, graphs: Graphs, name: str | None) -> None:
        with torch.device("meta"):
            super().__init__(config, name=name)
        self.graphs = graphs
        self._lost_samples = self.output_frame_size - self.decoder.output_length(1)
        parts: dict[str, nn.Module] = {part: OnnxModulePlaceholder(part) for part, _ in self.named_children()}
        parts["semantic_encoder"] = OnnxSemanticEncoder(self.semantic_encoder, graphs)
        parts["encoder"] = OnnxConvEncoder("acoustic_encoder", 1, graphs)
        quantizers = {"semantic_quantizer": config.semantic.quantizer, "acoustic_quantizer": config.acoustic_quantizer}
        for part, sizes in quantizers.items():
            parts[part] = OnnxModulePlaceholder(
                part, num_codebooks=sizes.num_codebooks, codebook_size=sizes.codebook_size
            )
        for part, module in parts.items():
            setattr(self, part, module)

    def why_unsupported(self, name: str, value: Any) -> str:
        """Say why an option cannot have this value."""
        return _refusal(name, value) or super().why_unsupported(name, value)

    def _batch_features(self, audio: Any, lengths: Any, options: EncodeOptions, acoustic: bool) -> Features:
        """Encode clips as a whole, whatever `windows` says."""
        return super()._batch_features(audio, lengths, replace(options, windows=None), acoustic)

    def quantize(
        self,
        features: Features,
        durations: Int[Tensor, "batch tokens"],
        num_codebooks: int | Int[Tensor, " batch"] | None = None,
        keeps_semantic: Bool[Tensor, " batch"] | None = None,
    ) -> tuple[Quantized, Quantized]:
        """Merge and quantise both streams, as `FlexiCodecNetwork.quantize` does in inference."""
        if int(durations.max()) > LONGEST_EXPORTED:
            raise ValueError(
                f"a token has {int(durations.max())} frames, but graphs are limited to {LONGEST_EXPORTED}; choose a "
                "max_duration, or use the model that was exported"
            )
        assert keeps_semantic is None
        assert num_codebooks is None or isinstance(num_codebooks, int)
        codes, known = self.graphs.run("semantic_quantizer", features.semantic, durations)
        semantic = Quantized(known, codes[:, None], {})
        if num_codebooks == 0:
            return semantic, Quantized(known, codes[:, None][:, :0], {})
        assert features.acoustic is not None
        (rows,) = self.graphs.run("acoustic_quantizer", features.acoustic, known, durations)
        return semantic, Quantized(known, rows[:, :num_codebooks], {})

    def token_margins(self, tokens: QuantizedTokens) -> NoReturn:
        """Refuse: graphs do not return the inputs of their quantizers."""
        raise ValueError(REFUSALS["margins"])

    def _decode(self, tokens: Tokens, options: EncodeOptions) -> Float[Tensor, "batch samples"]:
        if len(self._groups(tokens.frame_lengths, None)) > 1:
            return pad_and_cat([self._run_decoder(tokens[i]) for i in range(len(tokens))])
        return self._run_decoder(tokens)

    def _run_decoder(self, tokens: Tokens) -> Float[Tensor, "batch samples"]:
        # Codebooks that the tokens do not have are marked, and add nothing.
        missing = self.num_codebooks - tokens.num_codebooks
        acoustic = nn.functional.pad(tokens.acoustic, (0, 0, 0, missing), value=NO_CODE)
        assert tokens.semantic is not None
        (audio,) = self.graphs.run("decoder", tokens.semantic, acoustic, tokens.durations)
        lengths = tokens.frame_lengths * self.output_frame_size - self._lost_samples
        wanted = lengths if tokens.audio_lengths is None else self.output_lengths(tokens.audio_lengths)
        return fit_lengths(audio, lengths, wanted)


class ExportedNanoCodec(NanoCodec):
    """A NanoCodec whose networks are graphs."""

    device = torch.device("cpu")

    def __init__(self, config: NanoCodecConfig, graphs: Graphs, name: str | None) -> None:
        with torch.device("meta"):
            super().__init__(config, name)
        self.graphs = graphs
        self.encoder = OnnxConvEncoder("encoder", self.encoder.min_frames, graphs)  # type: ignore[assignment]
        self.quantizer = OnnxGroupedFSQ(config.quantizer, graphs)
        self.decoder = OnnxModulePlaceholder("decoder", min_frames=self.decoder.min_frames)  # type: ignore[assignment]

    @property
    def fixed_options(self) -> Mapping[str, Any]:
        """Options that graphs do not have."""
        return {**super().fixed_options, "precision": "float32", "compatible": False}

    def why_unsupported(self, name: str, value: Any) -> str:
        """Say why an option cannot have this value."""
        return _refusal(name, value) or super().why_unsupported(name, value)

    def _decode(self, tokens: Tokens, options: EncodeOptions) -> Float[Tensor, "batch samples"]:
        # The decoder may pad by reflection, which needs some frames.
        missing_frames = max(0, self.decoder.min_frames - tokens.acoustic.shape[-1])
        codes = nn.functional.pad(tokens.acoustic, (0, missing_frames))
        (audio,) = self.graphs.run("decoder", codes, tokens.token_lengths)
        lengths = tokens.token_lengths * self.frame_size
        return fit_lengths(audio, lengths, lengths if tokens.audio_lengths is None else tokens.audio_lengths)


def _check(name: str, value: Any, expected: Any) -> None:
    if value != expected:
        raise ValueError(_refusal(name, value))


def _refusal(name: str, value: Any) -> str:
    return REFUSALS.get(name, "").format(value)
