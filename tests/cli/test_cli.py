"""The command line itself."""

from __future__ import annotations

import subprocess
import sys


def test_help_needs_none_of_the_heavy_packages() -> None:
    code = (
        "import sys\n"
        "from bench.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'pandas', 'numpy', 'diffusers', 'decord', 'torchvision'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("run", "list", "show", "leaderboard", "train"):
        assert command in done.stdout
