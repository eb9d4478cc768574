"""What all tests share."""

import sys

# The main module of a worker of pytest-xdist has neither a file nor a spec: pyspark takes that for
# its own doctests, and leaves.
if not hasattr(sys.modules["__main__"], "__file__"):
    sys.modules["__main__"].__file__ = __file__
