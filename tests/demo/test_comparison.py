"""What the page shows of a clip, and the page without a server."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
import torch

from flexicodec import Tokens, read_audio
from flexicodec.analysis.plots import log_mel
from flexicodec.demo import cards, pictures
from flexicodec.demo.comparison import Comparer, Setting, played
from tests.demo.dropped_files import BAD_FILES


@pytest.fixture
def clip(comparer, talk):
    return comparer.open(talk)


# ----------------------------------------------------------------------------------------------------- tokens and sound


@pytest.mark.parametrize("policy", [None, "uniform", "variance", "running", "joint:acoustic=0.3"])
@pytest.mark.parametrize(("rate", "codebooks"), [(12.5, None), (6.0, 1), (4.0, 0)])
def test_features_computed_once_give_what_encode_gives(comparer, clip, rate, codebooks, policy):
    coded = comparer.encode(clip, Setting(rate, codebooks, policy))
    again = comparer.codec.encode(clip.audio, frame_rate=rate, num_codebooks=codebooks, policy=policy)
    assert coded.tokens == again
    torch.testing.assert_close(coded.audio, comparer.codec.decode(again))
    assert coded.audio.shape == clip.audio.shape


def test_numbers_are_those_of_the_tokens(comparer, clip):
    coded = comparer.encode(clip, Setting(5.0, 2))
    tokens = coded.tokens
    bits = int(tokens.token_lengths[0]) * (
        tokens.format.semantic_bits + tokens.format.duration_bits + 2 * tokens.format.acoustic_bits
    )
    assert coded.numbers["tokens"] == "10"
    assert coded.numbers["realised rate"] == "5.00 Hz"
    assert coded.numbers["bitrate"] == f"{bits / 2 / 1000:.3f} kbit/s"
    assert coded.numbers["codebooks"] == "1 + 2"
    assert float(coded.numbers["STOI"]) == pytest.approx(coded.stoi, abs=1e-3)


def test_what_can_be_asked_comes_from_the_codec(comparer, make_codec, whole):
    assert comparer.rates == (2.5, 12.5)
    assert comparer.four_rates == [12.5, 8.33, 6.25, 4.0]
    shorter = make_codec("whole", merging=replace(whole.config.merging, max_duration=3, policy="joint:acoustic=0.5"))
    capped = Comparer(shorter)
    assert capped.rates == (4.25, 12.5)  # 12.5 / 3, to the next step of the slider
    assert min(capped.four_rates) == 4.25
    assert capped.policies[0] == "joint:acoustic=0.5"
    assert "threshold" not in capped.policies  # it meets no rate


def test_every_policy_on_the_menu_works_at_every_end(comparer, clip):
    for policy in comparer.policies:
        for rate in comparer.rates:
            tokens = comparer.encode(clip, Setting(rate, 0, policy)).tokens
            assert tokens.info["frame_rate"] == rate


def test_codecs_and_limits_that_make_no_page(nanocodecs, make_codec, whole):
    with pytest.raises(ValueError, match="one rate only"):
        Comparer(next(iter(nanocodecs.values())))
    with pytest.raises(ValueError, match="one rate only"):
        Comparer(make_codec("whole", merging=None))
    with pytest.raises(ValueError, match="max_seconds is 0"):
        Comparer(whole, max_seconds=0)


def test_stereo_is_mixed_and_resampled(talk, clip):
    both, rate = soundfile.read(talk)
    assert (rate, both.shape) == (44_100, (88_200, 2))
    torch.testing.assert_close(clip.audio, read_audio(talk, 16_000, channels="mix"))
    assert clip.name == "talk {1}.wav"


@pytest.mark.parametrize("gain", [0.01, 0.2, 1.0, 3.0])
def test_played_at_one_loudness_as_int16(clip, gain):
    loudness = []
    for audio in (clip.audio, clip.audio * gain):
        samples = played(audio, clip.audio)
        assert samples.dtype == np.int16
        assert samples.shape == (32_000,)
        loudness.append(20 * np.log10(np.sqrt(np.mean((samples / 32767.0) ** 2))))
    assert loudness == pytest.approx([-26, -26], abs=0.05)


def test_peaks_are_lowered_and_never_cut(clip):
    click = torch.zeros(1, 32_000)
    click[0, 100] = 0.5
    for samples in (played(click), played(click, clip.audio), played(clip.audio, click)):
        assert np.abs(samples).max() <= 32767
    shape = played(click, clip.audio) / 32767.0
    assert np.count_nonzero(shape) == 1
    assert np.count_nonzero(played(torch.zeros(1, 100), clip.audio)) == 0


# ----------------------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_recordings_are_sentences_without_folders(comparer, tmp_path, name):
    write, sentence = BAD_FILES[name]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=sentence) as caught:
        comparer.open(tmp_path / name)
    assert str(tmp_path) not in str(caught.value)


def test_a_long_recording_is_refused_by_its_header(comparer, tmp_path, monkeypatch):
    BAD_FILES["hour.wav"][0](tmp_path / "hour.wav")
    monkeypatch.setattr("flexicodec.demo.comparison.read_audio", None)  # would take its memory
    with pytest.raises(ValueError, match="takes 5 s"):
        comparer.open(tmp_path / "hour.wav")


def test_token_files_come_back(comparer, clip, make_codec, tmp_path):
    coded = comparer.encode(clip, Setting(6.0, 1))
    coded.tokens.save(tmp_path / "talk.flxc")
    again = comparer.open_tokens(tmp_path / "talk.flxc")
    assert again.tokens == coded.tokens
    torch.testing.assert_close(again.audio, coded.audio)

    other = make_codec("whole", seed=5)
    other.encode(clip.audio).save(tmp_path / "other.flxc")
    long = comparer.codec.encode(clip.audio.repeat(1, 3))
    long.save(tmp_path / "long.flxc")
    (tmp_path / "text.flxc").write_text("tokens")
    for name, sentence in (
        ("other.flxc", "other.flxc: .*fingerprint|other.flxc: .*another model"),
        ("long.flxc", r"long.flxc lasts 0.1 min \(6.0 s\)"),
        ("text.flxc", "text.flxc: "),
    ):
        with pytest.raises(ValueError, match=sentence) as caught:
            comparer.open_tokens(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- instruments


def test_words_and_phones_are_found_once(comparer, clip):
    comparer.describe(clip)
    assert clip.transcript == "<b>{{2.0}} seconds"
    assert list(clip.tiers) == ["words", "phones"]
    comparer.__dict__["transcriber"] = None  # a second look would fail
    comparer.describe(clip)


def test_a_clip_that_cannot_be_aligned_has_a_note(comparer, clip, tmp_path):
    soundfile.write(tmp_path / "hm.wav", clip.audio[0, :8000].numpy(), 16_000)
    short = comparer.open(tmp_path / "hm.wav")
    comparer.describe(short)
    assert short.note == "No words and phones: too short: for a word."
    comparer.__dict__["_aligners"] = []
    comparer.describe(clip)
    assert "the extra instruments is not installed" in clip.note


def test_stoi_is_left_out_where_pystoi_is_missing(comparer, clip, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    coded = comparer.encode(clip, Setting(6.0))
    assert coded.stoi is None
    assert "STOI" not in coded.numbers


# ------------------------------------------------------------------------------------------------------------- pictures


def test_pictures_show_what_the_tokens_say(comparer, clip):
    comparer.describe(clip)
    coded = comparer.encode(clip, Setting(5.0))
    spectrogram = pictures.Spectrogram(clip.audio, 16_000)
    svg = cards.picture_html(clip, coded, spectrogram)
    durations = coded.tokens.durations[0].tolist()
    shown = [int(each) for each in re.findall(r"<title>token \d+: (\d+) frames", svg)]
    assert shown == durations
    starts = [float(x) for x in re.findall(r"M([\d.]+) 0V", svg)]
    expected = pictures.LEFT + spectrogram.second * 0.08 * np.cumsum(durations)[:-1]
    assert starts == pytest.approx(expected.tolist(), abs=0.1)
    assert svg.count('class="apart"') == len(durations) - 1
    assert svg.count('class="apart"') + svg.count('class="merged"') == sum(durations) - 1
    assert "hi &amp; &lt;bye&gt;" in svg
    assert ">sil<" not in svg


def test_pictures_are_png(clip):
    import matplotlib.image

    spectrogram = pictures.Spectrogram(clip.audio, 16_000)
    data = base64.b64decode(spectrogram.uri.partition(",")[2])
    grey = matplotlib.image.imread(io.BytesIO(data))
    decibels = log_mel(clip.audio, 16_000).decibels
    assert grey.shape == decibels.shape
    row, column = np.unravel_index(decibels.argmax(), decibels.shape)
    assert grey[len(grey) - 1 - row, column] == 0  # the loudest is black, low frequencies at the bottom


def test_a_clip_of_one_frame_has_a_picture(comparer, clip, tmp_path):
    soundfile.write(tmp_path / "short.wav", clip.audio[0, 4000:5000].numpy(), 16_000)
    short = comparer.open(tmp_path / "short.wav")
    coded = comparer.encode(short, Setting(12.5))
    assert "1 tokens" in cards.picture_html(short, coded, pictures.Spectrogram(short.audio, 16_000))


# ---------------------------------------------------------------------------------------------- a page without a server


class Page(HTMLParser):
    """Collects tags, and checks that they close in order."""

    VOID = ("meta", "image", "rect", "path", "circle", "polyline")

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize("output", ["page", "page.html"])
def test_static_page_holds_everything(comparer, talk, tmp_path, output):
    target = cards.write_static(comparer, [talk], tmp_path / output)
    assert target == tmp_path / ("page/index.html" if output == "page" else output)
    html = target.read_text()
    page = Page(html)
    sounds = [each["src"] for each in page.all("audio")]
    assert len(sounds) == 5
    for sound in sounds:
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sound.partition("base64,")[2])))
        assert (rate, len(samples)) == (16_000, 32_000)
    rates = []
    for link in page.all("a"):
        tokens = Tokens.from_bytes(base64.b64decode(link["href"].partition("base64,")[2]))
        rates.append(float(tokens.frame_rates[0]))
        assert link["download"] == f"talk {{1}}-{rates[-1]:.2f}hz.flxc"
    assert rates == [12.5, 8.5, 6.0, 4.0]  # whole tokens in two seconds
    assert len(page.all("svg")) == 4
    assert page.text.count("6.25 Hz asked for") == 2  # a card and a picture
    # Nothing is loaded from elsewhere, and texts are texts.
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert page.text.count("<b>{{2.0}} seconds") == 5
    assert comparer.codec.fingerprint in page.text


def test_static_page_is_written_whole_or_not_at_all(comparer, talk, tmp_path):
    BAD_FILES["silence.wav"][0](tmp_path / "silence.wav")
    with pytest.raises(ValueError, match=r"silence\.wav is silent"):
        cards.write_static(comparer, [talk, tmp_path / "silence.wav"], tmp_path / "page")
    assert not (tmp_path / "page").exists()
