"""`python -m arc.query DATA_DIR SOCKET [options]`: see `arc.query.process`."""

import sys

from arc.query.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
