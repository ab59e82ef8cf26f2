"""Parametrise the parity suite over the golden cases below --goldens: one test per case, utterance and threshold."""

import pytest
from golden_cases import FlexiCodecCase, FrontEndCase, OtherCase, find_cases


def pytest_generate_tests(metafunc):
    folder = metafunc.config.getoption("--goldens")
    try:
        cases = find_cases(folder.resolve())
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"--goldens {folder}: {error}") from error
    codecs = [case for case in cases if isinstance(case, FlexiCodecCase)]
    wanted = set(metafunc.fixturenames)

    def parametrize(names, values):
        rows = [pytest.param(*row, id="-".join([row[0].name, *map(str, row[1:])])) for row in values]
        metafunc.parametrize(names, rows)

    if {"tag", "threshold"} <= wanted:
        parametrize("case, tag, threshold", [(case, *pair) for case in codecs for pair in case.thresholds])
    elif "tag" in wanted:
        parametrize("case, tag", [(case, tag) for case in codecs for tag in case.tags])
    elif "threshold" in wanted:
        rows = [(case, threshold) for case in codecs for threshold in sorted({t for _, t in case.thresholds})]
        parametrize("case, threshold", rows)
    elif "case" in wanted:
        parametrize("case", [(case,) for case in codecs])
    elif "signal" in wanted:
        found = [case for case in cases if isinstance(case, FrontEndCase)]
        parametrize("front_end_case, signal", [(case, signal) for case in found for signal in case.signals])
    elif "front_end_case" in wanted:
        parametrize("front_end_case", [(case,) for case in cases if isinstance(case, FrontEndCase)])
    elif "other_case" in wanted:
        parametrize("other_case", [(case,) for case in cases if isinstance(case, OtherCase)])
