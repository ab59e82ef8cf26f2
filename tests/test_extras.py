"""Every extra installs alone: an environment with the core's dependencies and that extra runs what it is for."""

import os
import re
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest

import flexicodec

ROOT = Path(flexicodec.__file__).parents[1]
SETUP = "import json, pathlib, sys, torch, flexicodec; audio = flexicodec.example_audio()[:, :32000]\n"
MANIFEST = """
rows = []
for i in range(4):
    flexicodec.write_audio(f"{i}.wav", audio[:, 4000 * i : 16000 + 4000 * i], 16000)
    row = {"path": f"{i}.wav", "duration": 1.0, "text": "a text", "speaker": str(i), "num_phones": 9 + i}
    rows.append(json.dumps(row) + "\\n")
pathlib.Path("m.jsonl").write_text("".join(rows))
"""
NO_MODELS = '"--transcriber", "none", "--speaker-encoder", "none", "--mos", "none"'
# What each extra is for, in a few lines that fail without one of its packages.
DOORS = {
    "av": """
import av
with av.open("a.m4a", "w") as file:
    stream = file.add_stream("aac", rate=16000, layout="mono")
    frame = av.AudioFrame.from_ndarray(audio.numpy(), "fltp", "mono")
    frame.sample_rate = 16000
    file.mux([*stream.encode(frame), *stream.encode(None)])
assert flexicodec.read_audio("a.m4a").shape[1] >= 32000
""",
    "demo": f"""
import runpy, sys
sys.argv = ["demo.py", "--output", "demo"]
runpy.run_path({str(ROOT / "examples" / "demo.py")!r}, run_name="__main__")
""",
    "funasr": "import kaldi_native_fbank; from funasr import AutoModel; from modelscope import snapshot_download",
    "train": MANIFEST
    + """
from flexicodec.cli import main
overrides = ["data.manifest=[m.jsonl]", "data.validation=m.jsonl", "steps=1", "data.workers=0", "data.batch_size=2"]
overrides += ["adversarial=null", "trackers=[jsonl,tensorboard]", "output=run", "data.audio_cache=null"]
assert main(["train", CONFIG, *overrides]) == 0
flexicodec.load("run")
""".replace("CONFIG", repr(str(ROOT / "configs" / "flexicodec" / "finetune_mini.yaml"))),
    "lhotse": """
from lhotse import CutSet, MonoCut, Recording
flexicodec.write_audio("a.wav", audio, 16000)
CutSet.from_cuts([Recording.from_file("a.wav").to_cut()]).to_file("cuts.jsonl.gz")
from flexicodec.corpus import read_manifest
assert read_manifest("cuts.jsonl.gz")[0].duration == 2.0
""",
    "eval": MANIFEST
    + f'from flexicodec.cli import main; assert main(["evaluate", "m.jsonl", "-o", "r", {NO_MODELS}]) == 0',
    "instruments": """
from flexicodec.evaluation.metrics.asr import open_transcriber
assert open_transcriber("moonshine", None).transcribe([audio[0].numpy()])[0]
""",
    "export": """
from flexicodec.export.onnx import export
from flexicodec.export.runtime import load_exported
from flexicodec.models.nanocodec.config import DecoderConfig, EncoderConfig, NanoCodecConfig
from flexicodec.quantize import GroupedFSQConfig
small = {"kernel_sizes": (3,), "dilations": (1,)}
parts = EncoderConfig((6,), 2, **small), DecoderConfig((6,), 4, **small), GroupedFSQConfig(2, (8, 7))
codec = flexicodec.NanoCodec.random(NanoCodecConfig(encoder=parts[0], decoder=parts[1], quantizer=parts[2]))
export(codec, "onnx")
assert load_exported("onnx").encode(audio[:, :600]) == codec.encode(audio[:, :600])
""",
    "tokens": MANIFEST
    + 'from flexicodec.cli import main; assert main(["tokenize", "m.jsonl", "-o", "t", "--frame-rate", "6.25"]) == 0',
    "ray": MANIFEST
    + """
from flexicodec.cli import main
assert main(["tokenize", "m.jsonl", "-o", "t", "--frame-rate", "6.25", "--ray", "auto"]) == 0
""",
    "docs": f"""
import subprocess
command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", {str(ROOT / "mkdocs.yml")!r}]
subprocess.run([*command, "--site-dir", str(pathlib.Path("site").resolve())], check=True)
""",
    "datasets": """
from datasets import Dataset
tokens = flexicodec.load().encode(audio, frame_rate=6.25)
assert flexicodec.Tokens.from_dict(Dataset.from_dict(tokens.to_dict())[:]) == tokens
""",
    "tts": "from flexicodec.models.tts.text import _vocabulary; assert _vocabulary().encode('a text')",
    "demo-app": "from flexicodec.demo import page; import gradio, pystoi; assert page.build",
    "analysis": MANIFEST + 'from flexicodec.cli import main; assert main(["analyze", "m.jsonl", "-o", "r"]) == 0',
}


def core_distributions():
    """Yield the distributions that the package needs without any extra."""
    names, seen = ["flexicodec-lab"], set()
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for another system
            continue
        if name != "flexicodec-lab":
            yield distribution
        for requirement in distribution.requires or []:
            if "extra ==" not in requirement:
                names.append(re.match(r"[A-Za-z0-9._-]+", requirement).group())


def make_environment(folder):
    """Make an environment with links to the core's installed dependencies, which are large; returns its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    for distribution in core_distributions():
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                os.symlink(distribution.locate_file(top), packages / top)
    return python


def call(arguments, **options):
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("extra", DOORS)
def test_an_extra_works_alone(extra, tmp_path):
    python = make_environment(tmp_path / "venv")
    install = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
    call([*install, f"{ROOT}[{extra}]"])
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    call([python, "-c", SETUP + DOORS[extra]], cwd=tmp_path, env=environment)


def test_every_extra_has_a_door():
    section = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    assert set(re.findall(r"^([\w-]+) = \[", section, re.MULTILINE)) - {"dev"} == DOORS.keys()


def test_a_package_that_lacks_another_is_not_called_missing(tmp_path, monkeypatch):
    """lhotse 1.33 imports urllib3 and does not require it."""
    (tmp_path / "lhotse.py").write_text("import no_such_package")
    (tmp_path / "cuts.jsonl").write_text('{"id": "a", "type": "MonoCut", "start": 0, "duration": 1, "channel": 0}\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lhotse", raising=False)
    from flexicodec.corpus import read_manifest

    with pytest.raises(ImportError, match=r"lhotse, which is installed and cannot be imported .*no_such_package"):
        read_manifest(tmp_path / "cuts.jsonl")
