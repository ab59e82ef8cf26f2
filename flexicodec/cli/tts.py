"""`flexicodec tts`: speak a text with a model that was trained here, or with released weights."""

import argparse
import sys

import flexicodec

HELP = "speak a text in the voice of a recording"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `tts`."""
    parser.add_argument("text", help="what to say")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="an audio file (.wav, .flac, ...)")
    model_help = (
        "folder of `flexicodec train-tts`; or folder or hub id with artts.safetensors, nartts.safetensors and "
        "vocos_emilia.safetensors"
    )
    parser.add_argument("--model", required=True, metavar="DIR", help=model_help)
    parser.add_argument("--voice", metavar="FILE", help="recording of the voice to imitate (default: any voice)")
    ref_help = "what is said in it; without, the rhythm of speech is not imitated"
    parser.add_argument("--ref-text", metavar="TEXT", help=ref_help)
    rate = parser.add_mutually_exclusive_group()
    rate_help = "tokens per second, 3 to 12.5; released weights: 6.25 or 8.33"
    rate.add_argument("--frame-rate", type=float, metavar="HZ", help=rate_help)
    rate.add_argument(
        "--threshold", type=float, metavar="TAU", help="of released weights: a merging threshold (0.86, 0.91)"
    )
    parser.add_argument("--language", default="en", metavar="CODE", help="language of the text (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another reading (default: 0)")
    steps_help = "steps of the decoder; fewer are faster (default: %(default)s)"
    parser.add_argument("--steps", type=int, default=15, metavar="N", help=steps_help)
    guidance_help = "how strongly the decoder follows tokens and voice; 0 is twice as fast (default: %(default)s)"
    parser.add_argument("--guidance", type=float, default=2.0, metavar="W", help=guidance_help)
    dtype_help = "of language model and decoder; bfloat16 takes half the memory (default: %(default)s)"
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help=dtype_help)
    parser.add_argument("--vocoder", metavar="FILE", help="vocos_emilia.safetensors, if it is elsewhere")
    sensevoice_help = "folder with SenseVoiceSmall's model.pt, where the checkpoints lack it"
    parser.add_argument("--sensevoice", metavar="DIR", help=sensevoice_help)
    parser.add_argument("--device", help="torch device to run on, such as cpu or cuda:0 (default: cpu)")


def run(args: argparse.Namespace) -> int:
    """Speak, write the file and return the exit code: 1 if the text may be cut short."""
    if args.ref_text is not None and args.voice is None:
        raise ValueError("--ref-text says what is said in --voice FILE, which is missing")

    import torch

    from flexicodec.models.tts.flow_sampling import FlowSamplingConfig

    sampling = FlowSamplingConfig(steps=args.steps, guidance=args.guidance)
    tts = flexicodec.load_tts(
        args.model,
        vocoder=args.vocoder,
        sensevoice=args.sensevoice,
        device=args.device,
        dtype=getattr(torch, args.precision),
    )
    options = {"voice": args.voice, "voice_text": args.ref_text, "frame_rate": args.frame_rate, "seed": args.seed}
    if args.threshold is not None:
        if not isinstance(tts, flexicodec.TextToSpeech):
            raise ValueError(f"--threshold is for released weights; {args.model} takes any --frame-rate")
        options["threshold"] = args.threshold
    audio, tokens = tts.synthesize(args.text, language=args.language, sampling=sampling, **options)
    flexicodec.write_audio(args.output, audio, tts.sample_rate)
    print(f"{args.output}: {tokens}")
    if tokens.info["reached_limit"]:
        print("flexicodec: the limit of tokens was reached, so the text may be cut short", file=sys.stderr)
        return 1
    return 0
