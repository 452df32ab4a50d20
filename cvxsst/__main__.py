"""``python -m cvxsst`` is the command ``cvxsst``."""

from cvxsst.cli import main

main()
