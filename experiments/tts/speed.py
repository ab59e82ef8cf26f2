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

PEER_AR = {
    **{f"{part}_{name}_size": 1024 for part in ("text_encoder", "llm") for name in ("input", "output")},
    "text_encoder_attention_heads": 8,
    "text_encoder_linear_units": 3584,
    "text_encoder_num_blocks": 4,
    "llm_attention_heads": 8,
    "llm_linear_units": 5376,
    "llm_num_blocks": 16,
    "text_token_size": 51866,
    "speech_token_size": 32768,
    "spk_embed_dim": 192,
    "duration_classes": 10,
    "flex_framerate": True,
    "flex_framerate_options": [0.86, 0.91],
}
PEER_FLOW = {
    "mel_dim": 128,
    "hidden_size": 1024,
    "num_layers": 16,
    "num_heads": 16,
    "cond_codebook_size": 32768,
    "cond_dim": 1024,
    "cond_scale_factor": 4,
    "time_scheduler": "cos",
}


def peer(part, tokens, steps, repeats):
    """Measure one part of the peer, through its own classes."""
    import types

    import torch

    # Its vocoder module downloads a file when it is imported.
    sys.modules["cached_path"] = types.SimpleNamespace(cached_path=lambda *_: None)
    if part == "ar":
        from flexicodec.ar_tts.modeling_artts import create_transformer_lm_from_config

        model = shake(create_transformer_lm_from_config(**PEER_AR))
        times = [0.0]
        model.llm_decoder.register_forward_hook(lambda *_: times.append(time.process_time()))
        ids = torch.randint(1000, (1, TEXT))
        ratio = tokens / TEXT
        with torch.no_grad():
            model.inference(
                text=ids,
                text_len=torch.tensor([TEXT]),
                prompt_text=ids[:, :0],
                prompt_text_len=torch.tensor([0]),
                prompt_speech_token=torch.randint(1000, (1, PROMPT)),
                prompt_speech_token_len=torch.tensor([PROMPT]),
                embedding=torch.zeros(0, 192),
                prompt_token_lengths=torch.full((1, PROMPT), 2),
                max_token_text_ratio=ratio,
                min_token_text_ratio=ratio,
                inference_framerate=0.91,
            )
        return [after - before for before, after in zip(times[1:], times[2:], strict=False)]
    if part == "flow":
        from flexicodec.nar_tts.voicebox_models import VoiceBox

        model = shake(VoiceBox(**PEER_FLOW))
        condition = torch.randn(1, MEL_PROMPT + MEL_TARGET, 1024)
        prompt = torch.randn(1, MEL_PROMPT, 128)
        before = time.process_time()
        with torch.no_grad():
            model.reverse_diffusion(condition, prompt, n_timesteps=steps, cfg=2.0)
        return [time.process_time() - before]
    from flexicodec.nar_tts.vocoder_model import vocos_50hz

    model = shake(vocos_50hz())
    mel = torch.randn(1, 128, MEL_TARGET)
    with torch.no_grad():
        return timed(lambda: model(mel), repeats)


# -------------------------------------------------------------------------------------------------------------- table


def measure(part, system, args):
    """Run a measurement in a process of its own and return its seconds, None if it failed."""
    name, _, dtype = system.partition(" ")
    python = args.peer_python if name == "peer" else sys.executable
    command = [python, __file__, "--child", part, name, dtype or "float32", "--tokens", str(args.tokens)]
    command += ["--steps", str(args.steps), "--repeats", str(args.repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{part}, {system}: {done.stderr.splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def child(part, system, dtype, args):
    """Measure in this process and print seconds as JSON."""
    import torch

    torch.set_num_threads(1)
    if system == "peer":
        seconds = peer(part, args.tokens, args.steps, args.repeats)
    else:
        seconds = ours(part, dtype, args.tokens, args.steps, args.repeats)
    print(json.dumps(seconds))


def main():
    """Measure all parts of all systems, print factors and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", metavar="FILE", help="Python of the peer's environment (peer.sh)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the numbers as JSON")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="generated tokens (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=15, help="steps of flow matching (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of the vocoder (default: %(default)s)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child, args)
        return
    systems = ["ours float32", "ours bfloat16", *(["peer"] if args.peer_python else [])]
    results = {"machine": platform.processor() or platform.machine(), "tokens": args.tokens, "steps": args.steps}
    for part in args.parts:
        medians = {}
        for system in systems:
            seconds = measure(part, system, args)
            if seconds:
                medians[system] = statistics.median(seconds)
                results[f"{part}, {system}"] = {"median": medians[system], "all": seconds}
        for system, median in medians.items():
            factor = f", {medians['peer'] / median:.2f} x the peer" if "peer" in medians else ""
            print(f"{part}, {system}: {median:.4f} s of CPU time{factor}", flush=True)
    if args.output:
        args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
