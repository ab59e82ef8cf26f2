#!/usr/bin/env bash
# Make an environment with the peer in the folder $1: flexicodec 0.1.2 with transformers 4.57.6, the last line it runs with
# (its flow-matching model does not import with transformers 5).
set -euo pipefail
folder=$1
python3.11 -m venv "$folder"
"$folder/bin/pip" install --quiet torch==2.13.0
"$folder/bin/pip" install --quiet --no-deps torchaudio==2.11.0
libraries=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/torchaudio/lib
if [ -d "$libraries" ]; then mv "$libraries" "$libraries.disabled"; fi # CUDA libraries that a CPU torch cannot load
printf 'torch==2.13.0\ntorchaudio==2.11.0\n' > "$folder/pins"
"$folder/bin/pip" install --quiet --constraint "$folder/pins" flexicodec==0.1.2 transformers==4.57.6
