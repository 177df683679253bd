"""python -m gemmstone.calibrate --from TABLES [--out DIR] [--family NAME ...] [--device SLUG ...]"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gemmstone.calibrate.sweep import run
from gemmstone.catalog import calibration_files
from gemmstone.core.errors import GemmstoneError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gemmstone.calibrate", description="Fit kernel coefficients to tables"
    )
    parser.add_argument(
        "--from", dest="directory", type=Path, required=True, help="directory of kernel tables (parquet)"
    )
    parser.add_argument("--out", type=Path, default=calibration_files.DIRECTORY, help="where DEVICE.json files go")
    parser.add_argument("--family", action="append", help="only this kernel family (may be repeated)")
    parser.add_argument("--device", action="append", help="only this device (may be repeated)")
    given = parser.parse_args()
    try:
        fits = run(given.directory, given.out, given.family, given.device, say=print)
    except GemmstoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{len(fits)} fits written to {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
