#!/usr/bin/env bash
# Installs the pinned detectron2 into an environment that has none:
#     tools/install_detectron2.sh [PYTHON]
# See requirements/detectron2.txt for what it is and why.
set -euo pipefail
python=${1:-python}
here=$(cd "$(dirname "$0")/.." && pwd)

# Not `import detectron2`: without torch that fails although it is installed.
if "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("detectron2") is None)'; then
    echo "detectron2 is installed already; it stays as it is."
    exit 0
fi
site=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
# The wheel is tagged for CPython 3.10, its Python files run on any version.
"$python" -m pip install --no-cache-dir --quiet --no-deps --require-hashes --only-binary=:all: \
    --python-version 3.10 --target "$unpacked" -r "$here/requirements/detectron2.txt"
rm -f "$unpacked"/detectron2/_C.*.so
cp "$unpacked"/sal_detectron2-*.dist-info/LICENSE "$unpacked/detectron2/LICENSE"
# In one step: a copy that was interrupted must not pass for an installation.
rm -rf "$site/.detectron2.part"
cp -r "$unpacked/detectron2" "$site/.detectron2.part"
mv "$site/.detectron2.part" "$site/detectron2"
echo "detectron2 installed into $site."
