"""The test suite. Imported before torch and numpy, so that threads that wait for each other sleep.

When they spin on a machine that also runs other things, a fit takes ten times as long.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # Those of OpenBLAS always spin.
