"""The page in a browser, by gradio 6 (extra `demo-app`): handlers of its events, its layout, and its server.

An event runs the codec for what it needs at once; what a recogniser understands and the row of four rates follow in
events of their own, so that a moved slider does not wait for them. All share one limit of concurrency.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexicodec.demo import cards
from flexicodec.demo.comparison import RATE_STEP, Clip, Coded, Comparer, Setting, played
from flexicodec.demo.pictures import Spectrogram, draw

USER_ERRORS = (ValueError, OSError, ImportError)  # shown as a sentence
SESSION_SECONDS = 3600  # after which an abandoned session is forgotten
CLEAN_SECONDS = 600  # between two looks for old sounds in the temporary folder
INTRO = "Record or upload speech, or take an example, and choose how many tokens a second of it may have."
TOKENS_ONLY = "These are the tokens of a file: there is no original to compare with, and their rate is what it is."


@dataclass(frozen=True)
class PageOptions:
    """Where the page is served, and its limits."""

    host: str = "127.0.0.1"
    port: int = 7860
    queue: int = 16  # visitors that may wait
    concurrency: int = 1  # events that run at once
    max_megabytes: int = 100  # of an upload

    def __post_init__(self) -> None:
        for name in ("queue", "concurrency", "max_megabytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if not 0 < self.port < 65536:
            raise ValueError(f"port is {self.port}; expected 1 to 65535")


@dataclass(eq=False)
class Session:
    """What a visitor looks at."""

    coded: Coded
    spectrogram: Spectrogram
    clip: Clip | None  # None: tokens of a file


class Handlers:
    """What the page does at each event: values of components in, values of components out.

    Args:
        comparer: Codec and instruments.
        folder: Temporary; token files to download are written there.
    """

    def __init__(self, comparer: Comparer, folder: Path) -> None:
        self.comparer = comparer
        self.folder = folder

    def open_clip(self, path: str | None, rate: float, codebooks: float, policy: str) -> tuple[Any, ...]:
        """Read a recording: session, message, original, and what `move` returns after its message, then texts, row."""
        if path is None:
            return (None, "", None, None, "", "", None, "", "")
        try:
            clip = self.comparer.open(path)
            coded = self.comparer.encode(clip, Setting(rate, int(codebooks), policy))
            session = Session(coded, Spectrogram(clip.audio, self.comparer.codec.sample_rate), clip)
            shown = self._shown(session)
        except USER_ERRORS as error:
            return (None, cards.message_html(one_line(error)), None, None, "", "", None, "", "")
        original = (self.comparer.codec.sample_rate, played(clip.audio))
        return (session, "", original, *shown, "", "")

    def move(self, session: Session | None, rate: float, codebooks: float, policy: str) -> tuple[Any, ...]:
        """Encode at another choice: message, decoded sound, numbers, picture, token file."""
        assert session is not None
        assert session.clip is not None
        try:
            session.coded = self.comparer.encode(session.clip, Setting(rate, int(codebooks), policy))
            return ("", *self._shown(session))
        except USER_ERRORS as error:
            return (cards.message_html(one_line(error)), None, "", "", None)

    def open_tokens(self, path: str | None) -> tuple[Any, ...]:
        """Decode a token file; returns what `open_clip` does."""
        try:
            coded = self.comparer.open_tokens(path or "")
            session = Session(coded, Spectrogram(coded.audio, self.comparer.codec.output_sample_rate), None)
            shown = self._shown(session)
        except USER_ERRORS as error:
            return (None, cards.message_html(one_line(error)), None, None, "", "", None, "", "")
        return (session, cards.message_html(TOKENS_ONLY), None, *shown, "", "")

    def understand(self, session: Session | None) -> tuple[str, str]:
        """Return what a recogniser understands, and the picture with words and phones."""
        if session is None:
            return "", ""
        coded = session.coded
        try:
            parts = []
            if session.clip is not None:
                self.comparer.describe(session.clip)
                parts.append(cards.heard_html("Understood of the original", session.clip.transcript))
            coded.transcript = self.comparer.transcribe(coded.audio, self.comparer.codec.output_sample_rate)
            parts.append(cards.heard_html("Understood of the decoded", coded.transcript))
            if session.clip is not None:
                parts.append(cards.message_html(session.clip.note))
            return "".join(parts), self._picture(session)
        except USER_ERRORS as error:
            return cards.message_html(one_line(error)), self._picture(session)

    def four_rates(self, session: Session | None) -> str:
        """Return the row of cards, with the model's own policy and all codebooks."""
        if session is None or session.clip is None:
            return ""
        try:
            results = cards.compare_rates(self.comparer, session.clip)
        except USER_ERRORS as error:
            return cards.message_html(one_line(error))
        return cards.row_html(session.clip, results, self.comparer.codec)

    def _shown(self, session: Session) -> tuple[Any, ...]:
        """Return decoded sound, numbers, picture and token file of a session."""
        coded = session.coded
        clip = session.clip
        sound = played(coded.audio, None if clip is None else clip.audio)
        stem = "tokens" if clip is None else Path(clip.name).stem
        file = Path(tempfile.mkdtemp(dir=self.folder)) / f"{stem}-{float(coded.tokens.frame_rates[0]):.2f}hz.flxc"
        coded.tokens.save(file)
        picture = self._picture(session)
        return (self.comparer.codec.output_sample_rate, sound), cards.numbers_html(coded), picture, str(file)

    def _picture(self, session: Session) -> str:
        if session.clip is None:
            return draw(session.coded.tokens, session.spectrogram)
        return cards.picture_html(session.clip, session.coded, session.spectrogram)


def one_line(error: BaseException) -> str:
    """Return the message of an error as a sentence in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def build(comparer: Comparer, folder: Path, examples: Sequence[Path], options: PageOptions) -> Any:
    """Lay out the page: a `gradio.Blocks`, whose sounds are kept in `folder` where `temporary_folder` made it.

    Raises:
        ImportError: gradio is not installed.
    """
    gr = import_gradio()
    handlers = Handlers(comparer, folder)
    lowest, highest = comparer.rates
    names = comparer.policies
    policies = [(f"{names[0]} (the model's own)", names[0]), *((name, name) for name in names[1:])]
    most = comparer.codec.num_codebooks
    blocks = gr.Blocks(
        title="FlexiCodec", analytics_enabled=False, delete_cache=(CLEAN_SECONDS, SESSION_SECONDS), fill_width=False
    )
    with blocks:
        gr.Markdown(f"# FlexiCodec\n{INTRO} Up to {comparer.max_seconds:g} s.")
        session = gr.State(None, time_to_live=SESSION_SECONDS)
        with gr.Row():
            with gr.Column(min_width=300):
                source = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Recording", buttons=[])
                gr.Examples([[str(path)] for path in examples], [source], cache_examples=False)
            with gr.Column(min_width=300):
                rate = gr.Slider(
                    lowest,
                    highest,
                    value=(lowest + highest) / 2,
                    step=RATE_STEP,
                    label="Frame rate (tokens per second)",
                )
                codebooks = gr.Slider(0, most, value=most, step=1, label="Acoustic codebooks (0: semantic codes only)")
                policy = gr.Dropdown(policies, value=names[0], label="Policy")
                dropped = gr.File(label="Tokens (.flxc) to decode", file_types=[".flxc"], height=150)
        message = gr.HTML()
        with gr.Row():
            original = gr.Audio(label="Original", interactive=False, buttons=["download"], min_width=300)
            decoded = gr.Audio(
                label="Decoded, at the same loudness", interactive=False, buttons=["download"], min_width=300
            )
        numbers = gr.HTML()
        transcripts = gr.HTML()
        picture = gr.HTML()
        download = gr.DownloadButton("Download the tokens (.flxc)")
        gr.Markdown("### The same clip at four rates")
        row = gr.HTML()

        # One limit for all events; the last of many moves of a slider is the one that counts.
        shared: dict[str, Any] = {"concurrency_id": "codec", "concurrency_limit": options.concurrency}
        everything = [session, message, original, decoded, numbers, picture, download, transcripts, row]
        results = [message, decoded, numbers, picture, download]
        choice = [rate, codebooks, policy]
        opened = source.change(handlers.open_clip, [source, *choice], everything, api_name="open", **shared)
        read = dropped.upload(handlers.open_tokens, [dropped], everything, api_name="tokens", **shared)
        moved = gr.on(
            [each.change for each in choice],
            _skip_without_clip(gr, handlers.move, len(results)),
            [session, *choice],
            results,
            api_name="move",
            trigger_mode="always_last",
            show_progress="hidden",
            **shared,
        )
        shared["show_progress"] = "minimal"
        for event in (opened, read, moved):
            texts = event.then(handlers.understand, [session], [transcripts, picture], api_name=False, **shared)
            if event is opened:
                texts.then(handlers.four_rates, [session], [row], api_name="rates", **shared)
    return blocks.queue(max_size=options.queue, default_concurrency_limit=options.concurrency)


def _skip_without_clip(gr: Any, move: Callable[..., tuple[Any, ...]], outputs: int) -> Callable[..., Any]:
    """Leave the page as it is when a slider moves before there is a clip."""

    def handler(session: Session | None, rate: float, codebooks: float, policy: str) -> Any:
        if session is None or session.clip is None:
            return [gr.skip()] * outputs
        return move(session, rate, codebooks, policy)

    return handler


def import_gradio() -> Any:
    """Import gradio, or say which extra has it."""
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            "the page needs gradio: pip install 'flexicodec-lab[demo-app]' (--static OUT writes a page without)"
        ) from error
    return gradio


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder in which gradio keeps all its files, too, and remove it in the end."""
    names = ("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="flexicodec-demo-") as folder:
        for name in names:
            os.environ[name] = folder
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def launch(blocks: Any, options: PageOptions) -> str:
    """Start the server of a page without waiting for it, and return its address; `blocks.close()` ends it.

    Raises:
        OSError: The port is in use.
    """
    gr = import_gradio()
    fonts = ["system-ui", "sans-serif"]  # of the browser: the page loads nothing from elsewhere
    _, url, _ = blocks.launch(
        server_name=options.host,
        server_port=options.port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        show_error=True,
        run_history=False,  # else the browser keeps the recordings
        footer_links=["api"],
        max_file_size=f"{options.max_megabytes}mb",
        state_session_capacity=100,
        ssr_mode=False,
        theme=gr.themes.Default(font=fonts, font_mono=["monospace"]),
        css=cards.CSS,
    )
    return str(url)
