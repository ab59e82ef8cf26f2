"""`flexicodec demo`: a page that compares recordings with what a codec makes of them."""

import argparse
from pathlib import Path

import flexicodec
from flexicodec.cli import options
from flexicodec.cli.options import Verb
from flexicodec.io_utils import describe_missing, find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `demo`."""
    inputs_help = "recordings, or folders of them, to show (default: the example that ships)"
    parser.add_argument("inputs", nargs="*", type=Path, metavar="FILE", help=inputs_help)
    static_help = "write a page without a server instead: an .html file, or a folder for index.html"
    parser.add_argument("--static", type=Path, metavar="OUT", help=static_help)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve (default: %(default)s, this machine only)"
    )
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    seconds_help = "longest recording taken (default: %(default)g)"
    parser.add_argument("--max-seconds", type=float, default=60.0, metavar="S", help=seconds_help)
    megabytes_help = "largest upload taken (default: %(default)s)"
    parser.add_argument("--max-megabytes", type=int, default=100, metavar="MB", help=megabytes_help)
    parser.add_argument(
        "--queue", type=int, default=16, metavar="N", help="requests that may wait (default: %(default)s)"
    )
    concurrency_help = "requests that run at once (default: %(default)s)"
    parser.add_argument("--concurrency", type=int, default=1, metavar="N", help=concurrency_help)
    options.add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Write the page, or serve it until it is interrupted, and return the exit code."""
    recordings = find_recordings(args.inputs)

    from flexicodec.demo import cards, page
    from flexicodec.demo.comparison import Comparer

    # What is wrong with options and installation is said before the model is loaded.
    settings = page.PageOptions(args.host, args.port, args.queue, args.concurrency, args.max_megabytes)
    if args.static is None:
        page.import_gradio()
    comparer = Comparer(options.load_codec(args), args.max_seconds)
    if args.static is not None:
        print(cards.write_static(comparer, recordings, args.static))
        return 0
    with page.temporary_folder() as folder:
        blocks = page.build(comparer, folder, recordings, settings)
        try:
            print(f"{page.launch(blocks, settings)} (Ctrl-C ends it)", flush=True)
            blocks.block_thread()
        finally:
            blocks.close(verbose=False)
    return 0


def find_recordings(inputs: list[Path]) -> list[Path]:
    """List the recordings in files and folders; the example where there are none."""
    found: list[Path] = []
    for path in inputs or [flexicodec.EXAMPLE]:
        if not path.exists():
            raise FileNotFoundError(describe_missing(path))
        found += find(path)
    return found


DEMO = Verb("compare recordings with what a codec makes of them, on a page in the browser", add_arguments, run)
