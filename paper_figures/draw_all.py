"""Draw every figure of this folder, one script after another in one process.

Usage: python paper_figures/draw_all.py [--output folder]
"""

import runpy
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SHARED = {"draw_all.py", "drawing.py", "rank_maps.py"}


def main() -> None:
    """Run each script with the options given to this one; the first that fails ends it."""
    sys.path.insert(0, str(HERE))
    began = time.perf_counter()
    scripts = sorted(path for path in HERE.glob("*.py") if path.name not in SHARED)
    options = sys.argv[1:]
    for script in scripts:
        sys.argv = [str(script), *options]
        runpy.run_path(str(script), run_name="__main__")
    heavy = {"torch", "transformers"} & sys.modules.keys()
    if heavy:
        sys.exit(f"figures are drawn from files, without {', '.join(sorted(heavy))}: a script imports it")
    print(f"{len(scripts)} scripts in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
