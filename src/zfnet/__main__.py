"""`python -m zfnet`: the same command as `zfnet`."""

import sys

from zfnet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
