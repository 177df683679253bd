"""A process that measures allocates as one that has run for a while."""

import subprocess
import sys

import pytest

# Page faults of filling fresh arrays, each larger than all before it. What is counted is exact: no clock.
FAULTS = """
import resource
from gemmstone.measure import allocator

allocator.settle()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size in range(1, 21):
    bytearray(b"1") * (size << 20)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is what is settled")
def test_fresh_arrays_find_their_pages_again():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=120, check=True)
    written = sum(range(1, 21)) << 20  # bytes, each page of which is a fault where every array is mapped afresh
    assert int(done.stdout) < written / 4
