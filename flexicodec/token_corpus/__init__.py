"""Tokens of whole corpora: units of a manifest, each a Parquet file for every choice of rate, on many machines.

    listing.py      any source of clips -> a line a clip; a line -> its audio
    lines.py        lines -> units of some hours; plan.py: `dataset.json`, and what has changed since
    settings.py     what a codec and its options come to in `dataset.json`
    marks.py        which clips are under way, and which of them killed a process
    units.py        `run_unit`: the audio of a unit -> its tables and, last, its report
    local.py        processes on this machine, one a device; ray_cluster.py: actors on a Ray cluster
    summary.py      what is there; exports.py: larger files, and a file a clip

A unit is fixed by the manifest before anything runs. What is there is skipped, and what is done twice has the same
bytes: exactly once follows from that, on any engine and across any crash. `flexicodec.corpus.tokens` reads the result.
"""
