"""What importing the package costs and pulls in, and that imports run downhill."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flexicodec

PACKAGE = Path(flexicodec.__file__).parent
UNWANTED = ("torchaudio", "torchcodec", "audiotools")  # each breaks installs beside a current torch
SLOW = ("transformers", "vector_quantize_pytorch", "sympy", "torch._dynamo")  # each takes a second or more to import

# Layer of each module; modules import from their own layer and those below.
LAYERS = {
    **dict.fromkeys(("tokens", "code_margins", "token_format", "token_file", "audio", "config"), 0),
    "token_columns": 0,
    "side_information": 0,
    **dict.fromkeys(("weights", "io_utils", "installed_files", "corpus", "statistics", "parallel"), 0),
    **dict.fromkeys(("encoders", "lm", "merging", "nn", "quantize"), 1),
    **dict.fromkeys(("asr", "hub", "models", "transformers_model"), 2),
    **dict.fromkeys(("calibration", "training", "evaluation", "analysis", "export", "token_corpus", "tts"), 3),
    "demo": 3,
    **dict.fromkeys(("cli", "__main__"), 4),
}
SHARED = ("batch_encode", "codec", "fingerprint", "margins", "precision", "streaming")  # of models, beside the families
USES = [name for name, layer in LAYERS.items() if layer == 3]  # these never import one another, except for:
ALLOWED = {
    *(("training", other) for other in ("evaluation", "analysis", "calibration", "tts")),  # a run measures and plots
    ("analysis", "calibration"),  # thresholds are fitted to a corpus in one place
    ("token_corpus", "analysis"),  # words of an alignment
    *(("demo", other) for other in ("evaluation", "analysis")),  # a page shows both
}


def python(*arguments):
    """Run this Python on code or a module and return its output."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_is_light():
    loaded = python("-c", "import flexicodec, sys; print(*sys.modules)").split()
    assert not {"torch", "numpy", "transformers", *UNWANTED} & set(loaded)


@pytest.mark.parametrize("arguments", [("-c", "import flexicodec"), ("-m", "flexicodec", "--help")])
def test_starting_takes_under_a_second(arguments):
    def seconds():
        before = os.times()
        python(*arguments)
        after = os.times()  # CPU seconds of the child: other work on the machine does not count
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 1


def test_every_module_imports_without_what_breaks_installs():
    walk = """
import importlib, logging, pkgutil, random, sys, torch, flexicodec
def state():
    log = logging.root
    torches = torch.get_num_threads(), torch.get_default_dtype(), torch.get_rng_state().tolist()
    return list(sys.path), random.getstate(), list(log.handlers), log.level, log.manager.disable, *torches
before = state()
for module in pkgutil.walk_packages(flexicodec.__path__, "flexicodec."):
    if not module.name.endswith(("__main__", "transformers_model")):  # the latter registers classes of transformers
        importlib.import_module(module.name)
assert state() == before, "an import changed the path, the logging, the threads or the random state"
print(*sys.modules)
"""
    loaded = set(python("-c", walk).split())
    assert "soundfile" in loaded  # the walk went somewhere
    assert not {*UNWANTED, "funasr", "kaldi_native_fbank", *SLOW} & loaded


LOADED = "; print(*sys.modules)"


def test_configs_import_no_encoder():
    loaded = set(python("-c", f"import sys, flexicodec.models.flexicodec.config{LOADED}").split())
    assert not {*SLOW, "flexicodec.encoders.sanm", "flexicodec.encoders.ssl"} & loaded


def test_a_model_that_decodes_has_no_encoder():
    loaded = set(python("-c", f"import sys, flexicodec; flexicodec.load(parts='decode'){LOADED}").split())
    assert not {*SLOW, "flexicodec.encoders.sanm", "flexicodec.encoders.ssl"} & loaded


def test_encoding_imports_nothing_slow():
    call = "import sys, torch, flexicodec; flexicodec.load().encode(torch.zeros(16000))"
    assert not set(SLOW) & set(python("-c", call + LOADED).split())


def test_every_public_name_is_there():
    assert set(flexicodec.__all__) == {*flexicodec._HOMES, "__version__"}
    assert set(flexicodec.__all__) <= set(dir(flexicodec))
    for name in flexicodec.__all__:
        assert getattr(flexicodec, name) is not None
    with pytest.raises(AttributeError, match="lode"):
        _ = flexicodec.lode


def modules():
    """Yield the dotted name and the syntax tree of every module, by way of its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield (parts[:-1] if parts[-1] == "__init__" else parts), path, ast.parse(path.read_text())


def imports(name, path, tree):
    """Yield every dotted name imported anywhere in a module, as parts; public names resolved to their modules."""
    package = name if path.name == "__init__.py" else name[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            yield from (home(*base, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "flexicodec":
            yield home("flexicodec", node.attr)


def home(*parts):
    """Follow a public name to the module it is loaded from."""
    if parts[0] == "flexicodec" and len(parts) == 2 and parts[1] in flexicodec._HOMES:
        return tuple(flexicodec._HOMES[parts[1]].split("."))
    return parts


def is_upward(name, imported):
    """Return whether module `name` must not import module `imported`; both as parts, and in the package."""
    here, there = name[1], imported[1]
    if LAYERS[there] > LAYERS[here]:
        return True
    if here == there == "models":
        families = [parts[2] for parts in (name, imported) if len(parts) > 2 and parts[2] not in SHARED]
        return len(set(families)) > 1
    return here in USES and there in USES and here != there and (here, there) not in ALLOWED


def test_imports_run_downhill():
    uphill = set()
    for name, path, tree in modules():
        if len(name) == 1:
            continue  # the package's __init__ lists all public names
        assert name[1] in LAYERS, f"{path.name} has no layer: add it to LAYERS"
        inside = (parts for parts in imports(name, path, tree) if parts[0] == "flexicodec" and len(parts) > 1)
        for imported in inside:
            if imported[1] in LAYERS and is_upward(name, imported):
                uphill.add(f"{'.'.join(name)} imports {'.'.join(imported)}")
    assert not uphill


@pytest.mark.parametrize(
    ("name", "imported", "upward"),
    [
        ("tokens", "token_file", False),
        ("tokens", "nn.conv", True),
        ("nn.conv", "tokens", False),
        ("quantize.fsq", "models.codec", True),
        ("models.flexicodec.model", "models.codec", False),
        ("models.flexicodec.model", "models.flexicodec.config", False),
        ("models.flexicodec.model", "models.nanocodec.model", True),
        ("hub", "models.flexicodec", False),
        ("training.generator", "evaluation.metrics.signal", False),
        ("evaluation.metrics.signal", "training.generator", True),
        ("training.logging.media", "analysis.plots", False),
        ("analysis.plots", "training.logging.media", True),
        ("analysis", "cli", True),
        ("cli.train", "training", False),
    ],
)
def test_what_counts_as_uphill(name, imported, upward):
    assert is_upward(("flexicodec", *name.split(".")), ("flexicodec", *imported.split("."))) is upward


def test_no_import_statement_names_what_breaks_installs():
    named = {f"{'.'.join(name)}: {parts[0]}" for name, path, tree in modules() for parts in imports(name, path, tree)}
    assert not [entry for entry in named if entry.endswith(UNWANTED)]
