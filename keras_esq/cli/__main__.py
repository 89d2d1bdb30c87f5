"""`python -m keras_esq.cli`."""

import sys

from keras_esq.cli import main

sys.exit(main())
