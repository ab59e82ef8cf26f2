"""Audio files of many kinds: length, parts and whole agree, or the file is refused in words that say what it holds."""

import io
import struct

import numpy as np
import pytest
import soundfile
import torch

from flexicodec.audio import OpenedAudio, flac, mpeg, ogg, read_audio, write_audio
from flexicodec.corpus.audio_reading import read_duration, read_header, read_span
from flexicodec.io_utils import AUDIO_SUFFIXES

RATE = 16_000
SAMPLES = 40_011


def wave(samples=SAMPLES, rate=RATE, seed=0):
    """Loud noise of 0.2 s, then harmonics that come and go over a little noise."""
    t = np.arange(samples) / rate
    noise = np.random.default_rng(seed).standard_normal(samples)
    voice = 0.2 * np.sin(2 * np.pi * 3 * t) * sum(np.sin(2 * np.pi * 180 * k * t + k) / k for k in range(1, 9))
    return (voice + np.where(t < 0.2, 0.1, 0.001) * noise).clip(-0.99, 0.99)


def encoded(container, subtype, samples=SAMPLES, rate=RATE, channels=1, **settings):
    """Return the bytes of a file."""
    buffer = io.BytesIO()
    audio = np.stack([wave(samples, rate)] * channels, axis=1)
    with soundfile.SoundFile(buffer, "w", rate, channels, subtype, format=container, **settings) as file:
        file.write(audio)
    return buffer.getvalue()


def patched(content, position, new):
    return content[:position] + new + content[position + len(new) :]


def vorbis(samples=SAMPLES, **kind):
    return encoded("OGG", "VORBIS", samples, **kind)


def opus(samples=SAMPLES, **kind):
    return encoded("OGG", "OPUS", samples, **kind)


def mp3(samples=SAMPLES, **kind):
    return encoded("MP3", "MPEG_LAYER_III", samples, **kind)


def streamed_mp3(samples=SAMPLES, rate=RATE, **settings):
    """MP3 without the frame that counts the others, as a stream has none."""
    content = mp3(samples, rate=rate, **settings)
    first = next(position for position, _ in mpeg._frames(content))
    return content[first + mpeg.read_frame(content[first : first + 4]).size :]


def streamed_flac():
    """FLAC whose encoder did not know how many samples would come."""
    return ogg.flac_with_total(encoded("FLAC", "PCM_16"), 0)


def ogg_flac():
    """FLAC in Ogg, a page a second, written without going back."""
    native = streamed_flac()
    packets = [b"\x7fFLAC\1\0\0\1" + native[:42]]
    rest = native[42:]
    packets += [rest[begin : begin + 20_000] for begin in range(0, len(rest), 20_000)]
    pages = b""
    for number, packet in enumerate(packets):
        lacing = [255] * (len(packet) // 255) + [len(packet) % 255]
        header = b"OggS\0" + bytes([2 if number == 0 else 0]) + struct.pack("<qII", 0, 7, number) + bytes(4)
        pages += header + bytes([len(lacing), *lacing]) + packet
    return ogg.set_end(pages, SAMPLES)


def mp3_in_wav():
    stream = streamed_mp3()
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 4000, 1, 0, 12, 1, 2, 144, 1, 0)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(stream)) + stream
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def sphere(coding, samples, width, byte_order="01"):
    header = (
        f"NIST_1A\n   1024\nchannel_count -i 1\nsample_count -i {SAMPLES}\nsample_rate -i {RATE}\n"
        f"sample_n_bytes -i {width}\nsample_byte_format -s{len(byte_order)} {byte_order}\n"
        f"sample_coding -s{len(coding)} {coding}\nend_head\n"
    )
    return header.encode().ljust(1024) + samples


def pcm(order="<"):
    return (wave() * 32768).round().astype(f"{order}i2").tobytes()


def mp3_frames(samples=SAMPLES, rate=RATE, **settings):
    """Samples in the frames of a streamed MP3, with the encoder's delay and padding."""
    return sum(frame.samples for _, frame in mpeg._frames(streamed_mp3(samples, rate, **settings)))


VARIABLE = {"bitrate_mode": "VARIABLE", "compression_level": 0.5}
CONSTANT = {"bitrate_mode": "CONSTANT", "compression_level": 0.8}
ULAW = encoded("AU", "ULAW")[24:]
TAG = b"ID3\4\0\0\0\0\x40\0" + bytes(8192)

# Kind > bytes, and the samples that are in them.
KINDS = {
    **{
        f"{c} {s}": (lambda c=c, s=s: encoded(c, s), SAMPLES)
        for c in ("WAV", "AIFF", "FLAC")
        for s in ("PCM_16", "PCM_24")
    },
    "WAV GSM": (lambda: encoded("WAV", "GSM610"), 40_320),  # whole blocks, with the writer's last one
    "WAV G.721": (lambda: encoded("WAV", "G721_32"), 40_080),
    "AU G.723": (lambda: encoded("AU", "G723_24"), 40_080),
    "WAV NMS ADPCM": (lambda: encoded("WAV", "NMS_ADPCM_32"), 40_160),
    "WAV IMA ADPCM": (lambda: encoded("WAV", "IMA_ADPCM"), 40_680),
    "AIFF GSM": (lambda: encoded("AIFF", "GSM610"), SAMPLES),
    "AIFF DWVW": (lambda: encoded("AIFF", "DWVW_16"), SAMPLES),
    "SDS": (lambda: encoded("SDS", "PCM_16"), SAMPLES),
    "CAF ALAC": (lambda: encoded("CAF", "ALAC_16"), SAMPLES),
    "VOC": (lambda: encoded("VOC", "PCM_16"), SAMPLES),
    "W64": (lambda: encoded("W64", "FLOAT"), SAMPLES),
    "RF64": (lambda: encoded("RF64", "PCM_16"), SAMPLES),
    "AU of unknown size": (lambda: patched(encoded("AU", "PCM_16"), 8, b"\xff" * 4), SAMPLES),
    "SPHERE": (lambda: sphere("pcm", pcm(), 2), SAMPLES),
    "SPHERE big-endian": (lambda: sphere("pcm", pcm(">"), 2, "10"), SAMPLES),
    "SPHERE mu-law": (lambda: sphere("ulaw", ULAW, 1, "1"), SAMPLES),
    "FLAC streamed": (streamed_flac, SAMPLES),
    "FLAC joined": (lambda: encoded("FLAC", "PCM_16") + encoded("FLAC", "PCM_16", 9000), SAMPLES + 9000),
    "FLAC joined streams": (lambda: streamed_flac() * 2, 2 * SAMPLES),
    "FLAC behind a tag": (lambda: TAG + encoded("FLAC", "PCM_16"), SAMPLES),
    "FLAC in Ogg": (ogg_flac, SAMPLES),
    "Vorbis": (vorbis, SAMPLES),
    "Vorbis chained": (lambda: vorbis() + vorbis(9000) + vorbis(), 2 * SAMPLES + 9000),
    "Vorbis joined to itself": (lambda: vorbis(9000) * 2, 18_000),
    "Opus": (opus, SAMPLES),
    "Opus chained": (lambda: opus() + opus(9000), SAMPLES + 9000),
    "FLAC in Ogg, chained": (lambda: ogg_flac() + ogg_flac(), 2 * SAMPLES),
    "FLAC in Ogg, then Vorbis": (lambda: vorbis(9000) + ogg_flac(), SAMPLES + 9000),
    "MP3": (mp3, SAMPLES),
    "MP3 with a tag": (lambda: mp3() + b"TAG" + bytes(125), SAMPLES),
    "MP3 streamed, variable": (lambda: streamed_mp3(**VARIABLE), lambda: mp3_frames(**VARIABLE)),
    "MP3 streamed, constant": (lambda: streamed_mp3(**CONSTANT), lambda: mp3_frames(**CONSTANT)),
    "MP3 streamed, 48 kHz": (lambda: streamed_mp3(rate=48_000), lambda: mp3_frames(rate=48_000)),
    "MP3 behind a picture": (lambda: TAG + streamed_mp3(), mp3_frames),
    "MP3 cut out of a stream": (lambda: streamed_mp3(**CONSTANT)[1000:], None),
    "MP3 joined": (lambda: mp3() + mp3(9000), SAMPLES + 9000),
    "MP3 joined to a stream": (lambda: mp3() + streamed_mp3(), lambda: 2 * mp3_frames()),
    "MP3 in WAV": (mp3_in_wav, mp3_frames),
}
TOLERANCE = {"Opus": 2e-3, "Opus chained": 2e-3}  # where a decoder starts in the middle
EXACT = ("WAV PCM", "AIFF PCM", "FLAC", "CAF", "VOC", "W64", "RF64", "AU of", "SPHERE", "AIFF DWVW")


@pytest.mark.parametrize("kind", KINDS)
def test_length_parts_and_whole_agree(tmp_path, kind):
    make, samples = KINDS[kind]
    content = make()
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with OpenedAudio(path) as opened:
        whole = opened.read()
        assert opened.frames == len(whole)
    if samples is not None:
        assert len(whole) == (samples() if callable(samples) else samples)
    assert read_header(path) == (opened.rate, len(whole))

    # Any part, opened anew or not, is that part.
    with OpenedAudio(path) as opened:
        for begin in (len(whole) // 2, 0, 7919, len(whole) - 1, len(whole) - 400):
            count = min(400, len(whole) - begin)
            part = opened.read(begin, count)
            np.testing.assert_allclose(part, whole[begin : begin + count], atol=TOLERANCE.get(kind, 1e-6))
    part = read_span(path, opened.rate, first=begin, samples=count)
    np.testing.assert_allclose(part, whole[begin:, 0], atol=TOLERANCE.get(kind, 1e-6))
    # Bytes and file objects are as good as a path.
    for source in (content, io.BytesIO(content), path.open("rb")):
        np.testing.assert_array_equal(read_audio(source)[0], whole[:, 0])
        if not isinstance(source, bytes):
            np.testing.assert_allclose(
                read_span(source, opened.rate, first=999, samples=50),
                whole[999:1049, 0],
                atol=TOLERANCE.get(kind, 1e-6),
            )
            source.close()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "cut out" not in kind])  # that begins anywhere
def test_what_is_read_is_what_was_written(kind):
    make, _ = KINDS[kind]
    audio = read_audio(make())[0].numpy()
    rate = 48_000 if "48 kHz" in kind else RATE
    expected = wave(9000) if "chained" in kind and "Vorbis," in kind else wave(SAMPLES, rate)
    if kind.startswith(EXACT) and "Vorbis" not in kind:
        atol = 2e-2 if "mu-law" in kind else 1 / 32768
        np.testing.assert_allclose(audio[:SAMPLES], expected, atol=atol)
        return
    # Lossy kinds: the voice, at its place, beside the delay of MP3 whose header would have told it.
    begin, count = 6000 * rate // RATE, 2500
    wanted = expected[begin : begin + count]
    candidates = [audio[begin + shift : begin + shift + count] for shift in range(1500)]
    best = int(np.argmax([np.dot(part, wanted) / np.linalg.norm(part) for part in candidates]))
    assert np.corrcoef(candidates[best], wanted)[0, 1] > 0.9
    if "streamed" not in kind and "stream" not in kind and "picture" not in kind and "in WAV" not in kind:
        assert np.corrcoef(candidates[0], wanted)[0, 1] > 0.9


def test_late_parts_of_long_files_are_right(tmp_path):
    """Beyond a minute MP3 and Vorbis are not decoded from the start; low bitrates need much of what was before."""
    for suffix, settings in {".mp3": CONSTANT, ".ogg": {}}.items():
        container, subtype = {".mp3": ("MP3", "MPEG_LAYER_III"), ".ogg": ("OGG", "VORBIS")}[suffix]
        path = tmp_path / f"long{suffix}"
        content = encoded(container, subtype, 66 * RATE, **settings)
        path.write_bytes(content)
        whole = read_audio(path)[0].numpy()
        for begin in (60 * RATE + 5, *range(66 * RATE - 8001, 66 * RATE, 2000)):
            part = read_span(path, RATE, first=begin, samples=500)
            np.testing.assert_allclose(part, whole[begin : begin + 500], atol=1e-6)
    # Parts that follow one another closely, from one opened file.
    with OpenedAudio(path) as opened:
        for begin in range(20 * RATE, 30 * RATE, 7001):
            np.testing.assert_allclose(opened.read(begin, 500)[:, 0], whole[begin : begin + 500], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "samples"),
    [
        (lambda: encoded("FLAC", "PCM_16"), SAMPLES),
        (lambda: TAG + encoded("FLAC", "PCM_16"), SAMPLES),
        (lambda: encoded("FLAC", "PCM_16") * 2, 2 * SAMPLES),
        (lambda: streamed_flac() * 2, 2 * SAMPLES),
    ],
)
def test_large_flac_files_are_only_searched_where_they_go_on(monkeypatch, make, samples):
    monkeypatch.setattr(flac, "SEARCHED", 0)
    with OpenedAudio(make()) as opened:
        assert opened.frames == samples


def test_a_long_ogg_file_joined_to_itself_is_read_twice():
    """Its links have one serial number, and the second begins far from the end."""
    content = vorbis(40 * RATE, compression_level=0.0)
    assert len(content) > ogg.TAIL
    with OpenedAudio(content * 2) as opened:
        assert opened.frames == 80 * RATE


# A recorder that was killed leaves a size of 0, or of its last update.


def sizes_of(container, subtype="PCM_16"):
    """Return a file, and the position of the size of its samples."""
    content = encoded(container, subtype)
    position = {"AU": 8, "AIFF": content.find(b"SSND") + 4}.get(container, content.find(b"data") + 4)
    return content, position


def killed(container, subtype="PCM_16"):
    content, position = sizes_of(container, subtype)
    if container == "AIFF":
        content = patched(content, content.find(b"COMM") + 10, bytes(4))
        return patched(content, position, struct.pack(">I", 8))
    if container == "CAF":
        return patched(content, position, struct.pack(">q", -1))
    if container == "RF64":
        return patched(content, content.find(b"ds64") + 8, bytes(24))
    return patched(content, position, bytes(4))


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        *(("WAV", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT", "ULAW", "GSM610", "IMA_ADPCM")),
        *((container, "PCM_16") for container in ("AU", "AIFF", "CAF", "RF64")),
    ],
)
@pytest.mark.filterwarnings("ignore:.*counts 0 samples")
def test_the_samples_of_a_killed_recorder_are_read(tmp_path, container, subtype):
    good = read_audio(encoded(container, subtype))
    path = tmp_path / "killed"
    path.write_bytes(killed(container, subtype))
    audio = read_audio(path)
    samples = min(good.shape[1], SAMPLES)  # GSM's writer counts a block that is not there
    assert torch.equal(audio[:, :samples], good[:, :samples])
    assert read_duration(path) == audio.shape[1] / RATE
    part = read_span(path, RATE, first=30_000, samples=100)
    np.testing.assert_array_equal(part, audio[0, 30_000:30_100])


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_wav_that_was_piped_is_whole(size):
    content, position = sizes_of("WAV")
    piped = patched(patched(content, position, struct.pack("<I", size)), 4, struct.pack("<I", size))
    assert torch.equal(read_audio(piped), read_audio(content))


def test_killed_recorders_are_told_of(tmp_path):
    content, position = sizes_of("WAV")
    (tmp_path / "killed.wav").write_bytes(killed("WAV"))
    with pytest.warns(UserWarning, match=r"killed\.wav counts 0 samples in its header .*: the 80022 bytes"):
        read_audio(tmp_path / "killed.wav")
    (tmp_path / "short.wav").write_bytes(patched(content, position, struct.pack("<I", 20_000)))
    with pytest.warns(UserWarning, match=r"short\.wav counts 20000 bytes .*: 60022 bytes behind them are not read"):
        assert read_audio(tmp_path / "short.wav").shape == (1, 10_000)
    # Other chunks behind the samples are no samples.
    chunk = b"LIST" + struct.pack("<I", 3000) + bytes(3000)
    assert read_audio(content + chunk).shape == (1, SAMPLES)
    empty = patched(content[: position + 4], position, bytes(4))
    with pytest.raises(ValueError, match="holds 0 samples"):
        read_audio(empty + chunk)
    with pytest.warns(UserWarning, match="a file counts 0 samples"):
        assert read_audio(killed("WAV") + chunk).shape == (1, SAMPLES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (sphere("pcm,embedded-shorten-v2.00", bytes(5000), 2), "packed.*embedded-shorten-v2.00.*sph2pipe -f wav"),
        (encoded("WAV", "PCM_16") * 2, "several WAV files"),
        (vorbis() + vorbis(rate=8000), "2 streams one after the other, of 8000 Hz .* and 16000 Hz"),
        (opus() + opus(channels=2), "2 streams .* with 1 channels and 16000 Hz with 2 channels; split it"),
        (mp3() + mp3(rate=24_000), "2 streams"),
        (streamed_flac()[:30_000], "FLAC frames break off .*lost sync.*cut off"),
        (mp3()[:6000], "promises 40011 samples but only"),
        (b"no audio" * 1000, "[Nn]either|not recognised"),
        (b"", "cannot read a file of 0 bytes as audio: it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "pointer of Git LFS.*git lfs pull"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_audio(content)
    (tmp_path / "bad.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*bad\.bin"):
        read_span(tmp_path / "bad.bin", RATE)


class Pipe(io.BytesIO):
    """A file object without seeking."""

    def seekable(self):
        return False

    def seek(self, *_):
        raise io.UnsupportedOperation("seek")


def test_file_objects_are_read_from_their_first_byte():
    content = encoded("FLAC", "PCM_16")
    file = io.BytesIO(content)
    file.seek(1000)
    assert torch.equal(read_audio(file), read_audio(content))
    assert torch.equal(read_audio(Pipe(content)), read_audio(content))
    assert not file.closed


# Opus: the encoder's last packet


@pytest.mark.parametrize("rate", [8_000, 12_000, 16_000, 24_000, 48_000])
def test_opus_is_right_to_its_end(tmp_path, rate):
    """Lengths in steps of the 2.5 ms in which libsndfile's last packet comes, and odd ones."""
    path = tmp_path / "a.opus"
    for samples in [1, 7, rate // 50, *(rate // 5 + step * rate // 400 + 1 for step in range(9))]:
        t = np.arange(samples) / rate
        audio = (0.4 * np.sin(2 * np.pi * 200 * t + 1) + 0.1 * np.sin(2 * np.pi * 1234 * t)).astype(np.float32)
        write_audio(path, audio, rate)
        again = read_audio(path)[0].numpy()
        assert len(again) == samples == soundfile.info(path).frames
        assert np.abs(again - audio)[-rate // 50 :].max() < 0.25
        pages = list(ogg.read_pages(io.BytesIO(path.read_bytes())))
        assert ogg.set_end(path.read_bytes(), pages[-1].granule) == path.read_bytes()  # its checksum is right


def test_the_checksum_is_that_of_libsndfile():
    content = opus()
    last = list(ogg.read_pages(io.BytesIO(content)))[-1]
    assert ogg.set_end(content, last.granule) == content


@pytest.mark.parametrize("rate", [11_025, 44_100, 96_000])
def test_opus_refuses_other_rates(tmp_path, rate):
    with pytest.raises(ValueError, match="Opus only supports 8000, 12000, 16000, 24000, 48000 Hz; resample"):
        write_audio(tmp_path / "a.opus", wave(1000), rate)


# PyAV, the extra `av`


def with_av(path, container, codec, rate, sample_format=None, bit_rate=64_000):
    """Encode with FFmpeg."""
    av = pytest.importorskip("av")
    audio = wave(SAMPLES, rate).astype(np.float32)[None]
    with av.open(path, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = bit_rate
        stream.format = sample_format or stream.codec_context.codec.audio_formats[0].name
        resampler = av.AudioResampler(stream.format, "mono", rate)
        frame = av.AudioFrame.from_ndarray(audio, "fltp", "mono")
        frame.sample_rate = rate
        for converted in resampler.resample(frame):
            converted.pts = 0
            file.mux(stream.encode(converted))
        file.mux(stream.encode(None))
    return audio[0]


@pytest.mark.parametrize(
    ("name", "container", "codec", "rate", "beyond"),
    [
        ("aac.m4a", "ipod", "aac", 16_000, 1024),  # samples that may follow the last: an encoder's last frame
        ("aac.mp4", "mp4", "aac", 44_100, 1024),
        ("alac.m4a", "ipod", "alac", 16_000, 0),
        ("aac.aac", "adts", "aac", 16_000, 3072),  # without a header that tells the delay
        ("opus.webm", "webm", "libopus", 48_000, 0),
        ("aac.mka", "matroska", "aac", 16_000, 1024),
        ("wma.wma", "asf", "wmav2", 44_100, 2048),
        ("wavpack.wv", "wv", "wavpack", 16_000, 0),
        ("g722.wav", "wav", "g722", 16_000, 2),
        ("flac.oga", "oga", "flac", 16_000, 0),
        ("mp3.wav", "wav", "libmp3lame", 16_000, 2304),
    ],
)
def test_pyav_reads_what_libsndfile_does_not(tmp_path, name, container, codec, rate, beyond):
    sample_format = {"flac": "s16"}.get(codec)
    expected = with_av(tmp_path / name, container, codec, rate, sample_format)
    found_rate, frames = read_header(tmp_path / name)
    assert found_rate == rate
    if codec == "wmav2":  # FFmpeg's decoder keeps the last frame
        frames += 2048
    assert 0 <= frames - SAMPLES <= beyond
    whole = read_audio(tmp_path / name)[0].numpy()
    assert len(whole) == read_header(tmp_path / name)[1]
    np.testing.assert_array_equal(read_span(tmp_path / name, rate, first=20_000, samples=99), whole[20_000:20_099])
    np.testing.assert_array_equal(read_audio((tmp_path / name).read_bytes())[0], whole)
    begin = 9000 * rate // RATE
    wanted = expected[begin : begin + 6000]
    likeness = {}
    for shift in range(-3000, 3000):
        part = whole[begin + shift : begin + shift + 6000]
        likeness[shift] = np.dot(part, wanted) / np.linalg.norm(part) / np.linalg.norm(wanted)
    assert max(likeness.values()) > 0.95
    if codec not in ("g722", "wmav2", "libmp3lame") and container != "adts":  # these do not tell their delay
        assert max(likeness, key=likeness.__getitem__) == 0


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    with_av(tmp_path / "a.m4a", "ipod", "aac", 16_000)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ValueError, match=r"cannot read .*a\.m4a.* pip install 'flexicodec-lab\[av\]'"):
        read_audio(tmp_path / "a.m4a")


def test_a_torn_m4a_is_refused(tmp_path):
    with_av(tmp_path / "a.m4a", "ipod", "aac", 16_000)
    content = (tmp_path / "a.m4a").read_bytes()
    with pytest.raises(ValueError, match="cannot read"):
        read_audio(content[: len(content) // 2])


def test_suffixes_that_corpora_use_are_searched_for():
    assert {".wav", ".sph", ".nist", ".aifc", ".au", ".w64", ".rf64", ".caf", ".oga", ".snd", ".voc"} < {
        *AUDIO_SUFFIXES
    }
    assert {".m4a", ".aac", ".webm", ".wma"} < {*AUDIO_SUFFIXES}
    assert len({*AUDIO_SUFFIXES}) == len(AUDIO_SUFFIXES)
