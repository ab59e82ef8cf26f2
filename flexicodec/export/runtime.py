"""An exported codec at work: onnxruntime runs its graphs, and all that decides is the package's own.

It is a codec like any other, of the same fingerprint, whose networks are elsewhere; streams and margins need these and
are refused.
"""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from flexicodec.audio import Channels, fit_lengths
from flexicodec.config import from_dict
from flexicodec.encoders.base import SanmConfig
from flexicodec.encoders.fbank import KaldiFbank
from flexicodec.export.graphs import NO_CODE
from flexicodec.export.onnx import FRONT_END_NAME, LAYOUT, MANIFEST_NAME
from flexicodec.merging.durations import LONGEST_EXPORTED
from flexicodec.models.codec import Codec, inference_call
from flexicodec.models.flexicodec import chunked
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.flexicodec.network import Features
from flexicodec.models.nanocodec.config import NanoCodecConfig
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.models.precision import Precision
from flexicodec.models.streaming.state import Windows
from flexicodec.quantize import GroupedFSQ, GroupedFSQConfig, Quantized
from flexicodec.tokens import Tokens
from flexicodec.weights import UnloadedModule


def load_exported(folder: str | Path, *, threads: int | None = None) -> Codec:
    """Open a folder that `onnx.export` wrote.

    Args:
        folder: With `export.json`.
        threads: That onnxruntime may use; None for all cores.

    Returns:
        A codec whose `encode`, `features`, `tokenize` and `decode` are those of the model that was exported.

    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: The folder is not an export, or of another layout.
    """
    folder = Path(folder)
    if not (folder / MANIFEST_NAME).is_file():
        raise ValueError(
            f"{folder} has no {MANIFEST_NAME}; expected a folder that `flexicodec export` wrote to the end"
        )
    held = json.loads((folder / MANIFEST_NAME).read_text())
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
    """The graphs of a folder, each opened when it is first run.

    Args:
        folder: Where they lie.
        described: What `export.json` says of them.
        threads: See `load_exported`.
    """

    def __init__(self, folder: Path, described: dict[str, Any], threads: int | None) -> None:
        import onnxruntime

        self.folder, self._described = folder, described
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads or 0
        self._sessions: dict[str, Any] = {}

    def run(self, name: str, *inputs: Tensor) -> list[Tensor]:
        """Run one of them."""
        if name not in self._sessions:
            import onnxruntime

            path = self.folder / self._described[name]["file"]
            self._sessions[name] = onnxruntime.InferenceSession(path, self._options, ["CPUExecutionProvider"])
        ports = self._described[name]["inputs"]
        given = {port["name"]: each.numpy() for port, each in zip(ports, inputs, strict=True)}
        return [torch.from_numpy(output) for output in self._sessions[name].run(None, given)]


class OnnxModulePlaceholder(UnloadedModule):
    """Stands in the place of a network that is in the graphs.

    Args:
        name: Of the part, as the model has it.
        facts: What is still to be known of it.
    """

    def __init__(self, name: str, **facts: Any) -> None:
        super().__init__(name, "graphs")
        for key, value in facts.items():
            setattr(self, key, value)

    def _refuse(self) -> Any:
        raise ValueError(
            f"this codec runs exported graphs, in which its {self._name} cannot be called by itself; flexicodec.load "
            "opens the model that was exported"
        )


class OnnxSemanticEncoder(nn.Module):
    """The semantic encoder: our front end where it has one, then its graph; see `SemanticEncoder`."""

    def __init__(self, encoder: Any, graphs: Graphs) -> None:
        super().__init__()
        self.graphs, self.config = graphs, encoder.config
        self.dim, self.frame_rate = encoder.dim, encoder.frame_rate
        self.front_end: KaldiFbank | None = None
        if isinstance(encoder.config, SanmConfig):
            held = load_file(graphs.folder / FRONT_END_NAME)
            self.front_end = KaldiFbank(encoder.config.front_end, torch.stack([held["shift"], held["scale"]]))

    def forward(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, " batch"]]:
        """Listen."""
        if self.front_end is not None:
            features, counts = self.front_end(audio, lengths)
            return self.graphs.run("semantic_encoder", features, counts)[0], counts
        settings, counts = self.config.settings, lengths
        for kernel, stride in zip(settings.conv_kernel, settings.conv_stride, strict=True):
            counts = (counts - kernel) // stride + 1
        return self.graphs.run("semantic_encoder", audio, lengths)[0], counts


class ExportedConvEars(nn.Module):
    """A convolutional encoder."""

    def __init__(self, name: str, min_frames: int, graphs: Graphs) -> None:
        super().__init__()
        self.name, self.min_frames, self.graphs = name, min_frames, graphs

    def chunked(
        self, x: Float[Tensor, "batch 1 samples"], lengths: Int[Tensor, " batch"], pad_at_item_ends: bool = True
    ) -> Float[Tensor, "batch dim frames"]:
        """See `ConvStack.chunked`."""
        if not pad_at_item_ends:
            raise ValueError("graphs pad each clip at its own end; compatible=True needs the model that was exported")
        return self.graphs.run(self.name, x[:, 0].contiguous(), lengths)[0]


class ExportedFlexiCodec(FlexiCodec):
    """A FlexiCodec whose rooms are graphs. Clips are always taken whole.

    Args:
        config: Of the model that was exported.
        graphs: Its graphs.
        name: Its name.
    """

    device = torch.device("cpu")

    def __init__(self, config: FlexiCodecConfig, graphs: Graphs, name: str | None) -> None:
        with torch.device("meta"):
            super().__init__(config, name=name)
        self.graphs = graphs
        self._lost_samples = self.frame_size - self.decoder.output_length(1)
        ears, hears = (
            OnnxSemanticEncoder(self.semantic_encoder, graphs),
            ExportedConvEars("acoustic_encoder", 1, graphs),
        )
        for part in [name for name, _ in self.named_children()]:
            setattr(self, part, OnnxModulePlaceholder(part))
        self.semantic_encoder, self.encoder = ears, hears  # type: ignore[assignment]
        for part, settings in (
            ("semantic_quantizer", config.semantic.quantizer),
            ("acoustic_quantizer", config.acoustic_quantizer),
        ):
            sizes = {"num_codebooks": settings.num_codebooks, "codebook_size": settings.codebook_size}
            setattr(self, part, OnnxModulePlaceholder(part, **sizes))

    @inference_call
    def features(  # type: ignore[override]
        self,
        audio: Any,
        lengths: Any = None,
        *,
        sample_rate: int | None = None,
        channels: Channels | None = None,
        acoustic: bool = True,
        windows: Windows | None = None,
        precision: Precision = "float32",
    ) -> Features:
        """See `FlexiCodec.features`; clips are taken whole, whatever `windows` says.

        Raises:
            ValueError: As there; and for another precision than float32.
        """
        _check_precision(precision)
        return super().features(
            audio, lengths, sample_rate=sample_rate, channels=channels, acoustic=acoustic, windows=None
        )

    def quantize(
        self,
        features: Features,
        durations: Int[Tensor, "batch tokens"],
        num_codebooks: int | Int[Tensor, " batch"] | None = None,
        keeps_semantic: Bool[Tensor, " batch"] | None = None,
        margins: bool = False,
    ) -> tuple[Quantized, Quantized]:
        """See `FlexiCodecNetwork.quantize`.

        Raises:
            ValueError: Margins were asked for, which graphs do not give.
        """
        if margins:
            raise ValueError("graphs give no margins; the model that was exported does (flexicodec.load)")
        if int(durations.max()) > LONGEST_EXPORTED:
            raise ValueError(
                f"a token lasts {int(durations.max())} frames, but graphs hold {LONGEST_EXPORTED} at most; choose a "
                "max_duration, or use the model that was exported"
            )
        assert keeps_semantic is None
        assert num_codebooks is None or isinstance(num_codebooks, int)
        codes, known = self.graphs.run("semantic_quantizer", features.semantic.contiguous(), durations)
        semantic = Quantized(known, codes[:, None], {})
        if num_codebooks == 0:
            return semantic, Quantized(known, codes[:, None][:, :0], {})
        heard = self.acoustic_features(features, num_codebooks).contiguous()
        (rows,) = self.graphs.run("acoustic_quantizer", heard, known, durations)
        return semantic, Quantized(known, rows[:, :num_codebooks], {})

    @inference_call
    def decode(
        self, tokens: Tokens, *, windows: Windows | None = None, precision: Precision = "float32"
    ) -> Float[Tensor, "batch samples"]:
        """See `FlexiCodec.decode`; clips are taken whole, whatever `windows` says.

        Raises:
            ValueError: As there; and for another precision than float32.
        """
        _check_precision(precision)
        self.check_tokens(tokens)
        tokens = tokens.to(self.device)
        one_by_one = chunked.runs_clip_by_clip(self, tokens.frame_lengths, None)
        batches = [tokens[i] for i in range(len(tokens))] if one_by_one else [tokens]
        clips = [clip for batch in batches for clip in self._decode(batch)]
        lengths = tokens.frame_lengths * self.frame_size - self._lost_samples
        audio = nn.utils.rnn.pad_sequence(clips, batch_first=True)
        return fit_lengths(audio, lengths, lengths if tokens.audio_lengths is None else tokens.audio_lengths)

    def _decode(self, tokens: Tokens) -> Float[Tensor, "batch samples"]:
        missing = self.num_codebooks - tokens.num_codebooks
        acoustic = nn.functional.pad(tokens.acoustic, (0, 0, 0, missing), value=NO_CODE)
        assert tokens.semantic is not None
        return self.graphs.run("decoder", tokens.semantic, acoustic, tokens.durations)[0]


class ExportedNanoCodec(NanoCodec):
    """A NanoCodec whose networks are graphs.

    Args:
        config: Of the model that was exported.
        graphs: Its graphs.
        name: Its name.
    """

    device = torch.device("cpu")

    def __init__(self, config: NanoCodecConfig, graphs: Graphs, name: str | None) -> None:
        with torch.device("meta"):
            super().__init__(config, name)
        self.graphs = graphs
        self.encoder = ExportedConvEars("encoder", self.encoder.min_frames, graphs)  # type: ignore[assignment]
        self.quantizer = ExportedGroups(config.quantizer, graphs)
        self.decoder = OnnxModulePlaceholder("decoder", min_frames=self.decoder.min_frames)  # type: ignore[assignment]

    def encode(self, audio: Any, lengths: Any = None, *, precision: Precision = "float32", **choices: Any) -> Tokens:
        """See `NanoCodec.encode`.

        Raises:
            ValueError: As there; and for another precision than float32.
        """
        _check_precision(precision)
        return super().encode(audio, lengths, **choices)

    @inference_call
    def decode(
        self,
        tokens: Tokens,
        *,
        compatible: bool = False,
        windows: Windows | None = None,
        precision: Precision = "float32",
    ) -> Float[Tensor, "batch samples"]:
        """See `NanoCodec.decode`.

        Raises:
            ValueError: As there; and for compatible=True, or another precision than float32.
        """
        _check_precision(precision)
        if compatible:
            raise ValueError("graphs pad each clip at its own end; compatible=True needs the model that was exported")
        self.check_tokens(tokens)
        tokens = tokens.to(self.device)
        codes, frames = tokens.acoustic, tokens.token_lengths
        codes = nn.functional.pad(codes, (0, max(0, self.decoder.min_frames - codes.shape[-1])))
        (audio,) = self.graphs.run("decoder", codes, frames)
        lengths = frames * self.frame_size
        return fit_lengths(audio, lengths, lengths if tokens.audio_lengths is None else tokens.audio_lengths)


class ExportedGroups(GroupedFSQ):
    """NanoCodec's quantiser, which has no weights: codes come from its graph, and all else from the config."""

    def __init__(self, config: GroupedFSQConfig, graphs: Graphs) -> None:
        super().__init__(config)
        self.graphs = graphs

    def forward(
        self,
        latents: Float[Tensor, "batch dim tokens"],
        lengths: Int[Tensor, " batch"] | None = None,
        num_codebooks: int | Int[Tensor, " batch"] | None = None,
        margins: bool = False,
    ) -> Quantized:
        """See `Quantizer.forward`."""
        assert lengths is not None
        assert num_codebooks is None
        (codes,) = self.graphs.run("quantizer", latents.contiguous(), lengths)
        return Quantized(latents, codes, {}, self.margins(latents, codes, lengths) if margins else None)


def _check_precision(precision: str) -> None:
    if precision != "float32":
        raise ValueError(f"precision is {precision!r}, but graphs work in the one they were exported in")
