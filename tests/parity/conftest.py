"""Parametrise the parity suite over the golden cases below --goldens: one test per case, utterance and threshold."""

import pytest
from golden_cases import FlexiCodecCase, FrontEndCase, NanoCase, OtherCase, find_cases
from golden_tts import TTSCase

ARGUMENTS = (
    *("case", "tag", "threshold", "audio_name", "whole_audio_name"),
    *("front_end_case", "signal"),
    *("nano_case", "archive"),
    *("ar_case", "greedy_run"),
    *("flow_case", "sampling_run", "training_run"),
    *("vocos_case", "mel_case", "text_case", "end_to_end_case"),
    "other_case",
)
TTS_KINDS = ("ar", "flow", "vocos", "mel", "text", "end_to_end")


def pytest_generate_tests(metafunc):
    """Give a test every combination of the arguments it asks for that was recorded."""
    folder = metafunc.config.getoption("--goldens")
    try:
        cases = find_cases(folder.resolve())
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"--goldens {folder}: {error}") from error
    codecs = [case for case in cases if isinstance(case, FlexiCodecCase)]
    front_ends = [case for case in cases if isinstance(case, FrontEndCase)]
    nanos = [case for case in cases if isinstance(case, NanoCase)]
    others = [case for case in cases if isinstance(case, OtherCase)]
    tts = {kind: [case for case in cases if isinstance(case, TTSCase) and case.kind == kind] for kind in TTS_KINDS}
    rows = {
        "case": [(case,) for case in codecs],
        "case,tag": [(case, tag) for case in codecs for tag in case.tags],
        "case,tag,threshold": [(case, *pair) for case in codecs for pair in case.thresholds],
        "case,threshold": [(case, written) for case in codecs for written in sorted({t for _, t in case.thresholds})],
        "case,audio_name": [(case, name) for case in codecs for name in case.audio_names],
        "case,whole_audio_name": [(case, name) for case in codecs for name in case.audio_names if name.count("/") == 2],
        "front_end_case": [(case,) for case in front_ends],
        "front_end_case,signal": [(case, signal) for case in front_ends for signal in case.signals],
        "nano_case": [(case,) for case in nanos],
        "nano_case,archive": [(case, name) for case in nanos for name in case.archives],
        "other_case": [(case,) for case in others],
        **{f"{kind}_case": [(case,) for case in found] for kind, found in tts.items()},
        "ar_case,greedy_run": [(case, run) for case in tts["ar"] for run in case.held["greedy"]],
        "flow_case,sampling_run": [(case, run) for case in tts["flow"] for run in case.held["sampling"]],
        "flow_case,training_run": [(case, run) for case in tts["flow"] for run in case.training_runs],
    }
    wanted = ",".join(name for name in metafunc.fixturenames if name in ARGUMENTS)
    if wanted:
        named = [pytest.param(case, *rest, id="-".join([case.name, *rest])) for case, *rest in rows[wanted]]
        metafunc.parametrize(wanted.split(","), named)
