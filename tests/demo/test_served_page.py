"""The page as it is served: through gradio's own client, and in headless Chromium.

Screenshots are kept where the environment variable DEMO_SCREENSHOTS names a folder.
"""

import gc
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import flexicodec
from flexicodec import Tokens, read_audio
from flexicodec.demo.comparison import played
from tests.demo.dropped_files import BAD_FILES

pytest.importorskip("gradio")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of gradio, its client and what they import
ANSWER_SECONDS = 120  # that a busy machine may take
WIDTHS = (1280, 390)  # pixels
CHOICE = (6.0, 2, "uniform")


@pytest.fixture(scope="module")
def served(whole, tmp_path_factory):
    """Address and folder of a page; home, temporary and working folder are in the folder."""
    base = tmp_path_factory.mktemp("served")
    for name in ("home", "tmp", "here"):
        (base / name).mkdir()
    whole.save_pretrained(base / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "HOME": str(base / "home"),
        "TMPDIR": str(base / "tmp"),
        "PYTHONPATH": str(Path(flexicodec.__file__).parents[1]),
    }
    arguments = ("--model", str(base / "model"), "--port", str(port), "--max-seconds", "10", "--max-megabytes", "40")
    command = [sys.executable, "-m", "flexicodec", "demo", *arguments]
    server = subprocess.Popen(command, cwd=base / "here", env=environment, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        assert line == f"http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
        yield f"http://127.0.0.1:{port}/", base
    finally:
        server.send_signal(signal.SIGINT)
        code = server.wait(60)
        server.stdout.close()
        gc.collect()
    assert code in (0, 130)
    # Nothing stays, and nothing was written elsewhere.
    assert list((base / "tmp").glob("flexicodec-demo-*")) == []
    assert list((base / "here").iterdir()) == []


@pytest.fixture(scope="module")
def talk(speech_folder, tmp_path_factory):
    """Two seconds of speech as a 16-bit stereo file."""
    wave = read_audio(sorted(speech_folder.glob("*.flac"))[0])[0, 8000:40_000].numpy()
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    soundfile.write(path, np.stack([wave, 0.5 * wave], 1), 16_000, subtype="PCM_16")
    return path


def test_a_client_gets_what_the_codec_gives(served, whole, talk, tmp_path):
    from gradio_client import Client, handle_file

    url, base = served
    client = Client(url, verbose=False, download_files=str(tmp_path / "downloads"))
    _, original, decoded, _, _, file, *_ = client.predict(handle_file(str(talk)), *CHOICE, api_name="/open")
    audio = read_audio(talk, channels="mix")
    tokens = whole.encode(audio, frame_rate=6.0, num_codebooks=2, policy="uniform")
    assert Tokens.load(file) == tokens
    # What the browser plays is what was decoded: not scaled to full scale, not cut.
    for path, expected in ((original, audio), (decoded, whole.decode(tokens))):
        samples, rate = soundfile.read(path, dtype="int16")
        assert rate == 16_000
        assert np.abs(samples - played(expected, audio).astype(int)).max() <= 1
    assert any((base / "tmp").rglob("talk.wav"))

    # The session of this client has the clip.
    _, _, numbers, _, file = client.predict(4.0, 1, "uniform", api_name="/move")
    assert "4.00 Hz" in numbers
    message, _, _, numbers, *_ = client.predict(handle_file(file), api_name="/tokens")
    assert "no original" in message
    assert "4.00 Hz" in numbers
    for name, (write, sentence) in BAD_FILES.items():
        write(tmp_path / name)
        message, *_ = client.predict(handle_file(str(tmp_path / name)), *CHOICE, api_name="/open")
        assert "alert" in message, name
        assert re.search(sentence.replace("5 s", "10 s"), message), message
    client.close()
    gc.collect()


# -------------------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def chromium():
    """A browser of the system, or playwright's."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        try:
            browser = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--mute-audio"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {error}")
        yield browser
        browser.close()


def keep_screenshot(page, name):
    """Check that the page is no wider than the window, and keep its picture where one wants it."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), name
    if folder := os.environ.get("DEMO_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_a_visitor_in_a_browser(served, chromium, talk, tmp_path):
    url, _ = served
    page = chromium.new_page(viewport={"width": WIDTHS[0], "height": 900})
    page.set_default_timeout(1000 * ANSWER_SECONDS)
    elsewhere, errors = [], []
    page.on("request", lambda request: elsewhere.append(request.url) if not request.url.startswith(url) else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    page.get_by_role("heading", name="FlexiCodec").wait_for()

    # Upload, and what follows by itself
    page.locator("input[type=file]").first.set_input_files(talk)
    numbers = page.locator(".numbers").first
    numbers.wait_for()
    page.locator(".transcript").first.wait_for()
    page.locator(".card audio").nth(4).wait_for()
    before = numbers.inner_text()

    # Move the slider by its number
    field = page.get_by_role("spinbutton", name=re.compile("Frame rate"))
    field.fill("4")
    field.press("Enter")
    numbers.get_by_text("4.00 Hz", exact=True).wait_for()
    assert numbers.inner_text() != before
    assert page.locator(".picture svg title").first.text_content().startswith("token 0")

    # Play: every sound has the clip's length, and time passes.
    sounds = page.locator(".card audio")
    for i in range(sounds.count()):
        assert sounds.nth(i).evaluate("e => e.duration") == pytest.approx(2.0, abs=0.02)
    sounds.first.evaluate("e => e.play()")
    page.wait_for_function("document.querySelector('.card audio').currentTime > 0.2")

    # Legible on a desk and on a phone
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        keep_screenshot(page, f"page-{width}")
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})

    # Download and drop back in
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the tokens (.flxc)").click()
    download.value.save_as(tmp_path / "again.flxc")
    assert float(Tokens.load(tmp_path / "again.flxc").frame_rates[0]) == 4.0
    page.locator("input[type=file][accept*=flxc]").set_input_files(tmp_path / "again.flxc")
    page.get_by_text("there is no original").wait_for()

    # A bad file is a sentence.
    page.get_by_label("Clear").first.click()
    write, _ = BAD_FILES["silence.wav"]
    write(tmp_path / "silence.wav")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "silence.wav")
    page.get_by_text("silence.wav is silent").wait_for()
    keep_screenshot(page, "page-bad-file")
    page.close()
    assert errors == []
    assert [each for each in elsewhere if not each.startswith(("data:", "blob:"))] == []


def test_the_static_page_in_a_browser(chromium, comparer, talk, tmp_path):
    from flexicodec.demo.cards import write_static

    target = write_static(comparer, [talk], tmp_path)
    page = chromium.new_page(viewport={"width": WIDTHS[0], "height": 900})
    page.goto(target.as_uri())
    page.wait_for_function("[...document.querySelectorAll('audio')].every(e => e.duration > 1.9)")
    assert page.locator("audio").count() == 5
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        keep_screenshot(page, f"static-{width}")
    page.close()
