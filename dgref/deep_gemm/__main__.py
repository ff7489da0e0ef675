"""Run a program that imports deep_gemm on this package: `python -m dgref.deep_gemm PROGRAM.py ARGUMENTS`.

`python -m dgref.deep_gemm --names` prints what serves each of its names.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from dgref.deep_gemm.installation import install
from dgref.deep_gemm.names import table
from dgref.errors import expected


def main(arguments: list[str]) -> int:
    """Run the program that the first argument names; the rest are its own."""
    if not arguments:
        print("usage: python -m dgref.deep_gemm PROGRAM.py [ARGUMENTS], or --names", file=sys.stderr)
        return 2
    if arguments == ["--names"]:
        print(table())
        return 0
    if not Path(arguments[0]).exists():
        print(f"dgref: {expected('program', arguments[0], 'a file that exists')}", file=sys.stderr)
        return 2
    install()
    sys.argv = arguments
    sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
    runpy.run_path(arguments[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
