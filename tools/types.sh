#!/usr/bin/env bash
# mypy on the package as it is once installed, and on the examples; with the cache, seconds. Needs the extras test and dev.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
python "$root/tools/package_tree.py" "$root/build/package"
cd "$root/build/package"  # away from the tree, where bench/ would be found without its three sister folders
python -m mypy --config-file "$root/pyproject.toml" --cache-dir "$root/.mypy_cache" bench "$root/examples" "$@"
