"""CPU time of FlexiCodec-TTS at full size with random weights on one thread, ours and the peer's in turn.

    python experiments/tts/speed.py --peer-python PEER/bin/python --output experiments/tts/speed.json

Every measurement runs in a process of its own, so that memory is free again. The peer, flexicodec 0.1.2 in the
environment that peer.sh makes, is called through its own classes; without --peer-python only ours is measured.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
PARTS = ("ar", "flow", "vocoder")
TEXT, PROMPT = 60, 30  # ids and tokens before the first new one
TOKENS = 100
MEL_PROMPT, MEL_TARGET = 150, 250  # 3 s and 5 s


def timed(call, repeats):
    """CPU seconds of a call, after a first one."""
    call()
    seconds = []
    for _ in range(repeats):
        before = time.process_time()
        call()
        seconds.append(time.process_time() - before)
    return seconds


def step_times(steps, first):
    """CPU seconds between steps, from step `first` on."""
    times = []
    before = time.process_time()
    for _ in steps:
        now = time.process_time()
        times.append(now - before)
        before = now
    return times[first:]


def shake(model):
    """Give weights on the meta device memory and values; gains are 1."""
    import torch

    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.uniform_(-0.02, 0.02)
            else:
                weight.fill_(1.0)
    return model.eval()


# -------------------------------------------------------------------------------------------------------------- ours


def ours(part, dtype, tokens, steps, repeats):
    """Measure one part of ours."""
    import torch

    from flexicodec.models.tts.ar import ARBatch, AutoregressiveTTS
    from flexicodec.models.tts.config import ARConfig, FlowMatchingConfig, VocosConfig
    from flexicodec.models.tts.flow_matching import FlowMatchingDecoder
    from flexicodec.models.tts.flow_sampling import FlowSamplingConfig, sample
    from flexicodec.models.tts.generation import GenerationConfig, generate_steps
    from flexicodec.models.tts.vocos import Vocos

    build = {
        "ar": lambda: AutoregressiveTTS(ARConfig()),
        "flow": lambda: FlowMatchingDecoder(FlowMatchingConfig()),
        "vocoder": lambda: Vocos(VocosConfig()),
    }[part]
    with torch.device("meta"):
        model = build()
    model = shake(model).to(getattr(torch, dtype))
    if part == "ar":
        text = torch.randint(1000, (1, TEXT))
        prompt = torch.randint(1000, (1, PROMPT))
        lengths = [torch.tensor([each.shape[1]]) for each in (text, prompt)]
        batch = ARBatch(text, lengths[0], prompt, lengths[1], torch.full((1, PROMPT), 2), 0.91)
        # Positions are projected at the first call of a model, and kept.
        config = GenerationConfig(min_tokens=tokens, max_tokens=tokens)
        list(generate_steps(model, batch, GenerationConfig(min_tokens=1, max_tokens=1)))
        return step_times(generate_steps(model, batch, config), 1)
    if part == "flow":
        codes = torch.randint(1000, (1, (MEL_PROMPT + MEL_TARGET + 3) // 4))
        noise, prompt = torch.randn(1, MEL_TARGET, 128), torch.randn(1, MEL_PROMPT, 128)
        before = time.process_time()
        sample(model, codes, noise, prompt, config=FlowSamplingConfig(steps))
        return [time.process_time() - before]
    mel = torch.randn(1, 128, MEL_TARGET)
    with torch.no_grad():
        return timed(lambda: model(mel), repeats)


# -------------------------------------------------------------------------------------------------------------- peer


def peer(part, tokens, steps, repeats):
    """Measure one part of the peer, through its own classes."""
    import torch

    if part == "ar":
        from flexicodec.ar_tts.modeling_artts import TransformerLMWrapper  # noqa: F401
    raise SystemExit(f"the peer's {part} is not driven yet")


def run(part, system, dtype, args):
    """Measure in a process of its own and return its numbers."""
    python = args.peer_python if system == "peer" else sys.executable
    command = [python, __file__, "--child", part, system, dtype, "--tokens", str(args.tokens)]
    command += ["--steps", str(args.steps), "--repeats", str(args.repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])
