"""The test suite. Imported before torch: threads that wait for each other sleep. On a machine that
also runs other things, a fit takes ten times as long when they spin."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
