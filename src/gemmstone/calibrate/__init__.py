"""Measured kernel times -> fitted coefficients, with their error on shapes the fit never saw.

    run(tables, out)    fit everything found in a directory of tables, merge the results into out/DEVICE.json

`FAMILIES` (in families.py) names what can be fitted. Needs scipy and polars: pip install 'gemmstone[calibrate]'.
"""

from gemmstone.calibrate.sweep import run

__all__ = ["run"]
